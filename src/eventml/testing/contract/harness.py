"""What the suite has to know of a backend to test it: said by the plug-in's author."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine  # noqa: TC003 - msgspec may read the annotations
from contextlib import AbstractAsyncContextManager  # noqa: TC003 - the same
from typing import Any

import msgspec

from eventml.backends.base import Backend, Capabilities
from eventml.records import Record


class Harness(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the backend under test, and what can be done to it.

    Only `connect` is required. What is left out is not tested: those cases are skipped by name.

    Attributes:
        connect: Opens a connection. The suite holds several at a time, all to the same broker; a
            backend that lives in one process may give the same object again. Topics and groups
            have names of their own in every case, so that cases may share a broker.
        create_topic: Creates a topic, where that is done beforehand and the backend itself has no
            `create_topics`; with at least 4 partitions, where there are partitions.
        told: What the module's `capabilities(settings)` says of the same settings.
        kill: Ends a connection, which is what `connect` gave, and its members, without a word
            to the broker, as SIGKILL would. What is left of them is closed when the case ends;
            errors of that are ignored.
        lease: After how many seconds a delivery is taken from a member that lives and is silent.
            Set a short one in tests. Needed where the backend redelivers by lease.
        freeze: Makes the members of a connection fall silent while it is entered, as SIGSTOP does.
            Needed where a backend renews leases by itself; None where a member that does nothing
            is silent already.
        refused: Makes a record for that topic which the broker refuses for good (too large, say).
        patience: How many seconds anything may take that has to happen: a receive, a rebalance
            whose members hold deliveries, the noticing of a dead member. It costs time only when a
            case fails.
        quiet: How many seconds of silence show that nothing comes. Longer than a delivery takes.
    """

    connect: Callable[[], AbstractAsyncContextManager[Backend]]
    create_topic: Callable[[str], Coroutine[Any, Any, None]] | None = None
    told: Capabilities | None = None
    kill: Callable[[Any], Awaitable[None]] | None = None
    lease: float | None = None
    freeze: Callable[[Any], AbstractAsyncContextManager[None]] | None = None
    refused: Callable[[str], Record] | None = None
    patience: float = 15.0
    quiet: float = 0.3
