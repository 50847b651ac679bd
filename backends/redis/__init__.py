"""A Redis server on this machine."""
