"""What the author of a backend provides so that the suite can test it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine  # noqa: TC003 - msgspec may read the annotations
from contextlib import AbstractAsyncContextManager  # noqa: TC003 - the same
from typing import Any

import msgspec

from eventml.backends.base import Backend, Capabilities
from eventml.records import Record


class Harness(msgspec.Struct, frozen=True, kw_only=True):
    """How to connect to the backend under test, and how to disturb it.

    Only `connect` is required. A case that needs an attribute which is None is skipped, with the reason.

    Attributes:
        connect: Opens a connection. The suite keeps several open at a time, all to the same broker; a
            backend for a single process may return the same object each time. Each case uses topics and
            groups with new names, so cases may share a broker.
        create_topic: Creates a topic with at least 4 partitions. Needed where topics must exist before they
            are used and the backend has no `create_topics`.
        declared: The result of the module's `capabilities(settings)` for the same settings.
        kill: Ends a connection (the object that `connect` gave) and its members without telling the
            broker, as SIGKILL would. The suite closes them when the case ends and ignores the errors.
        lease: Seconds after which a delivery is taken from a member that is alive but does nothing. Set a
            short one in tests. Needed where the backend redelivers by lease.
        freeze: A context manager that stops a connection's members while it is entered, as SIGSTOP does.
            Needed where a backend renews leases by itself; None where it does not.
        refused: Makes a record for a topic that the broker refuses for good (too large, say).
        patience: Seconds that a receive, a rebalance or the detection of a dead member may take. A passing
            case does not wait for it.
        quiet: Seconds without a delivery after which the suite concludes that none will come.
    """

    connect: Callable[[], AbstractAsyncContextManager[Backend]]
    create_topic: Callable[[str], Coroutine[Any, Any, None]] | None = None
    declared: Capabilities | None = None
    kill: Callable[[Any], Awaitable[None]] | None = None
    lease: float | None = None
    freeze: Callable[[Any], AbstractAsyncContextManager[None]] | None = None
    refused: Callable[[str], Record] | None = None
    patience: float = 15.0
    quiet: float = 0.3
