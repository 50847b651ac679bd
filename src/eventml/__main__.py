"""`python -m eventml` runs the command `eventml`."""

from eventml.cli import main

main()
