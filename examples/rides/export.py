"""Write rides to a JSON lines file to be scored: `python -m examples.rides.export --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from eventml.errors import EventMLError
from examples.rides.generator import generate
from examples.rides.tlc import read
from examples.rides.trips import ride_events

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if the file was written, 2 if not."""
    parser = argparse.ArgumentParser("python -m examples.rides.export", description=__doc__)
    parser.add_argument("file", type=Path, help="file to write")
    parser.add_argument("--trips", nargs="+", type=Path, metavar="FILE", help="TLC files")
    parser.add_argument(
        "--events",
        type=int,
        default=20_000,
        help="number of generated trips without --trips (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated trips")
    options = parser.parse_args(args)
    try:
        trips = read(options.trips) if options.trips else generate(options.events, options.seed, part="live")
        options.file.parent.mkdir(parents=True, exist_ok=True)
        with options.file.open("wb") as file:
            encoder = msgspec.json.Encoder()
            file.writelines(encoder.encode(ride) + b"\n" for ride in ride_events(trips))
    except (EventMLError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print(f"{len(trips):,} rides in {options.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
