"""Where audio comes from and goes to: the shells around carriers/."""
