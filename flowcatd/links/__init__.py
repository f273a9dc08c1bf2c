"""Shells around providers: helper processes, disk; one per kind of connection, not per vendor."""
