"""The ids that a group finished last: a bounded memory of them."""

from __future__ import annotations

from collections import OrderedDict


class LastIds:
    """Ids in the order of their last finishing. Each operation takes constant time."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, id_: str) -> bool:
        return id_ in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, id_: str, window: int) -> None:
        """Note that this one is the last that was finished, and forget all but the last `window`."""
        self._ids[id_] = None
        self._ids.move_to_end(id_)
        while len(self._ids) > window:
            self._ids.popitem(last=False)
