"""Taxi rides: one stream of rides, several consumers. The README beside this file says how to run it."""
