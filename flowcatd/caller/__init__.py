"""The other side of a call: a caller for people and for tests."""
