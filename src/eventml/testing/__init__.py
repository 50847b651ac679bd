"""For tests: a bus that needs no broker, and the contract that every backend keeps.

`TestBus` runs a bus's handlers in memory. `eventml.testing.contract` holds a backend to what
`eventml.backends.base` promises; whoever writes a backend runs it in their own tests.
"""

from eventml.testing.deadletters import DeadLetter
from eventml.testing.testbus import TestBus

__all__ = ["DeadLetter", "TestBus"]
