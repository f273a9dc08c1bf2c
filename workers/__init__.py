"""One process of many calls: listeners, the call table, admission, wiring."""
