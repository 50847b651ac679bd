"""Trains a model and processes two months, the second after a price rise: `python -m examples.churn.demo`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from examples.churn import month, train

if TYPE_CHECKING:
    from collections.abc import Sequence

MONTHS: Final[tuple[tuple[str, ...], ...]] = (("2024-06",), ("2024-07", "--price-rise"))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if all steps succeeded. Further arguments are passed on to both months."""
    more = sys.argv[1:] if args is None else args
    if status := train.main([]):
        return status
    for one in MONTHS:
        print()
        if status := month.main([*one, *more]):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
