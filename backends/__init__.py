"""How to bring each real broker up, from the command line and from the tests, by the same code."""
