"""What calls over SIP cost, and how well they are paced and answered, on the real daemon."""
