"""What a backend guarantees, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventml.backends.base import Capabilities

_ORDERING = {
    "per_key": "order: events of one key are handled in their order",
    "single_member": "order: only while a group has one member; its members share the work in no order",
    "none": "order: none",
}
_REDELIVERY = {
    "lease": "redelivery: what a worker had in hand when it died, or past its lease, goes to another",
    "leave": "redelivery: what a worker had in hand when it left or died goes to another",
}


def in_words(capabilities: Capabilities) -> list[str]:
    """A line for each guarantee, or for its lack."""
    return [
        _ORDERING[capabilities.ordering],
        "delivery: every event is handled at least once",
        "outputs: one for each input, however often it is delivered"
        if capabilities.atomic_completion
        else "outputs: a repeated delivery repeats its outputs, with the same ids",
        "deduplication: with dedupe_window, an event whose id the group has completed before is dropped"
        if capabilities.deduplicates
        else "deduplication: none; an event that was published twice is handled twice",
        _REDELIVERY[capabilities.redelivery],
        "attempts: deliveries are counted, so an event that kills its worker is found and set aside"
        if capabilities.counts_attempts
        else "attempts: deliveries are not counted, so an event that kills its worker comes again",
        "durability: what was published outlives this process"
        if capabilities.durable
        else "durability: none; what was published ends with this process",
        "processes: several workers share a group's work"
        if capabilities.shared
        else "processes: one only; publishers and handlers live in the same",
    ]
