"""What to say next: the brain seam and the dialog state machine."""
