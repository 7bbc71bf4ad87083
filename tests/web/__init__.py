"""A small web of our own on loopback, with all the traps of the real one (issue B)."""
