"""For tests: a bus that needs no broker, and the contract suite for backends.

`TestBus` (`testbus.py`) runs a bus's handlers in memory, with other models and lifespans if a test wants
them. `eventml.testing.contract` tests a backend against the promises of
`eventml.backends.base`. May import everything below the deployments, and the memory backend.
"""

from eventml.testing.testbus import DeadLetter, TestBus

__all__ = ["DeadLetter", "TestBus"]
