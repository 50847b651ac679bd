"""Ack bookkeeping, against a model that keeps a state for every offset."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from eventml.backends.memory.partition import Window

HOLDERS = [object(), object(), object()]
holders = st.sampled_from(range(len(HOLDERS)))


class WindowMachine(RuleBasedStateMachine):
    """Delivers, finishes and gives back, in any order, by any holder."""

    def __init__(self) -> None:
        super().__init__()
        self.window: Window[Any] = Window(10)
        self.position = 10
        self.holder: dict[int, object] = {}
        self.returned: set[int] = set()

    @rule(steps=st.lists(st.integers(1, 3), max_size=6), tail=st.integers(0, 2), who=holders)
    def deliver(self, steps: list[int], tail: int, who: int) -> None:
        """Fresh offsets, with gaps between them and behind the last."""
        offsets, offset = [], self.position - 1
        for step in steps:
            offset += step
            offsets.append(offset)
        self.position = offset + 1 + tail
        self.window.deliver(offsets, HOLDERS[who], self.position)
        self.holder |= dict.fromkeys(offsets, HOLDERS[who])

    @rule(data=st.data(), who=holders)
    def finish(self, data: st.DataObject, who: int) -> None:
        offset = data.draw(st.integers(9, self.position))
        held = self.holder.get(offset) is HOLDERS[who]
        assert self.window.finish(offset, HOLDERS[who]) is held
        if held:
            del self.holder[offset]

    @rule(who=holders)
    def give_back(self, who: int) -> None:
        offsets = sorted(offset for offset, holder in self.holder.items() if holder is HOLDERS[who])
        assert self.window.give_back(HOLDERS[who]) == offsets
        for offset in offsets:
            del self.holder[offset]
        self.returned.update(offsets)

    @rule(limit=st.integers(0, 5), who=holders)
    def take_returned(self, limit: int, who: int) -> None:
        offsets = sorted(self.returned)[:limit]
        assert self.window.take_returned(limit, HOLDERS[who]) == offsets, "the lowest first"
        self.returned.difference_update(offsets)
        self.holder |= dict.fromkeys(offsets, HOLDERS[who])

    @invariant()
    def nothing_unfinished_lies_below_the_safe_offset(self) -> None:
        unfinished = [*self.holder, *self.returned]
        assert self.window.safe == min(unfinished, default=self.position)

    @invariant()
    def counts_are_exact(self) -> None:
        assert self.window.position == self.position
        assert self.window.in_flight == len(self.holder)
        assert self.window.unfinished(self.position + 7) == 7 + len(self.holder) + len(self.returned)


TestWindow = WindowMachine.TestCase
