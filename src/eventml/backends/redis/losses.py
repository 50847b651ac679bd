"""What was lost, or nearly: counted where it happens, for metrics and for the log."""

from __future__ import annotations

import msgspec


class Losses(msgspec.Struct):
    """Counters of one connection's doings, from zero.

    Attributes:
        groups_recreated: Groups that were gone (FLUSHALL, a failover to a replica that lagged) and
            were made again from the topic's beginning. What the topic had held is lost with it, or
            is delivered again.
        trimmed: Entries that were delivered once, but cut from the topic before they were finished.
        unread: Entries that `max_length` cut before a group had been given them, for each such group.
        overtaken: Completions dropped, because another member had completed the same delivery.
        repeated: Outputs dropped, because another delivery of the input's id had been finished meanwhile.
        claimed: Deliveries taken over from members that had died or fallen silent.
    """

    groups_recreated: int = 0
    trimmed: int = 0
    unread: int = 0
    overtaken: int = 0
    repeated: int = 0
    claimed: int = 0
