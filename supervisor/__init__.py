"""Many processes: the fleet, its decisions and its acts, and the command `flowcatd`."""
