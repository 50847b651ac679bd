"""`python -m eventml` is `eventml`."""

from eventml.cli import main

main()
