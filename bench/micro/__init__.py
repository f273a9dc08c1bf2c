"""What one function or one frame costs."""
