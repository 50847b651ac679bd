"""A process that completes the records of a topic, each with one output, until it is killed.

    answering.py URL TOPIC TO GROUP LEASE PAUSE

PAUSE is how long each batch of at most 10 takes, in seconds. The process prints "joined" when it has
joined the group, and for each batch the number of its deliveries.
"""

from __future__ import annotations

import asyncio
import sys

from eventml.backends import redis
from eventml.backends.base import Completion
from eventml.records import Record


async def main(url: str, topic: str, to: str, group: str, lease: str, pause: str) -> None:
    settings = redis.Settings(lease=float(lease))
    async with (
        redis.open(url, settings) as backend,
        backend.subscribe([topic], group=group, start="earliest") as subscription,
    ):
        print("joined", flush=True)  # noqa: T201 - the test waits for it
        while True:
            deliveries = await subscription.receive(10)
            print(len(deliveries), flush=True)  # noqa: T201 - the same
            await asyncio.sleep(float(pause))
            await subscription.complete(
                [
                    Completion(
                        d, (Record(to, b"of " + d.record.value, d.record.key, f"{d.record.id}/answer"),)
                    )
                    for d in deliveries
                ]
            )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
