"""Benches that start the whole daemon: memory of workers and calls."""
