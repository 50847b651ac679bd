"""A process of its own that works for a group, for tests that kill it.

    worker.py '{"url": …, "topic": …, "to": …, "group": …, "settings": {…}, "pause": 0.0, "die": 0.0}'

It answers each record with one on `to`, whose id is the record's with "/made" after it. With `die` it
kills itself, with that chance, after a transaction's records are written and before it is committed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import sys
from typing import Any

from aiokafka import AIOKafkaProducer

from eventml.backends import kafka
from eventml.backends.base import Completion
from eventml.errors import BackendError
from eventml.records import Record


async def work(said: dict[str, Any]) -> None:
    pause, to = said.get("pause", 0.0), said["to"]
    async with (
        kafka.open(said["url"], kafka.Settings(**said["settings"])) as backend,
        backend.subscribe([said["topic"]], group=said["group"], start="earliest") as subscription,
    ):
        while True:
            try:
                taken = await subscription.receive(said.get("limit", 50))
                await asyncio.sleep(pause)
                done = [
                    Completion(d, (Record(to, d.record.value, d.record.key, f"{d.record.id}/made"),))
                    for d in taken
                ]
                await until_completed(subscription, done)
            except BackendError:
                await asyncio.sleep(0.1)


async def until_completed(subscription: Any, done: list[Completion]) -> None:
    while True:
        try:
            await subscription.complete(done)
        except BackendError:
            await asyncio.sleep(0.1)
        else:
            return


def die_before_commit(chance: float) -> None:
    commit = AIOKafkaProducer.commit_transaction

    async def perhaps(producer: AIOKafkaProducer) -> None:
        if random.random() < chance / 2:
            os.kill(os.getpid(), signal.SIGKILL)  # before the commit is asked for
        committing = asyncio.ensure_future(commit(producer))
        if random.random() < chance / 2:
            await asyncio.sleep(random.random() / 200)
            os.kill(os.getpid(), signal.SIGKILL)  # while it is
        await committing

    AIOKafkaProducer.commit_transaction = perhaps


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    choices = json.loads(sys.argv[1])
    if choices.get("die"):
        die_before_commit(choices["die"])
    asyncio.run(work(choices))
