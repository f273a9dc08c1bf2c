"""The other side of each wire, shared with tests."""
