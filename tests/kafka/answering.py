"""A worker process for tests: `answering.py URL BUS [SECONDS A BATCH]`. Says `ready` once it has joined."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import anyio

from eventml import Bus, config


def make_bus(url: str, name: str, pause: float = 0.0) -> Bus:
    """A bus with one predictor, which repeats each event of `<name>.in` on `<name>.out`."""
    bus = Bus(name)
    bus.configure(config.load(environ={}, overrides={"backend": url}))

    @bus.predictor(f"{name}.in", to=f"{name}.out", max_batch=100)
    def echo(events: list[Any]) -> list[Any]:
        time.sleep(pause)
        return events

    return bus


async def main(url: str, name: str, pause: str = "0") -> None:
    bus = make_bus(url, name, float(pause))
    async with bus, bus.worker() as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await worker.ready.wait()
        print("ready", flush=True)  # noqa: T201 - the test waits for this line


if __name__ == "__main__":
    anyio.run(partial(main, *sys.argv[1:]))
