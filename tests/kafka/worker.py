"""A process that works for a group, for tests that kill it.

    worker.py '{"url": …, "topic": …, "to": …, "group": …, "settings": {…}, "pause": 0.0, "die": 0.0,
                "certainly": false, "name": null}'

For each record it publishes one on `to`, with the id `<record's id>/made`. With `die` it kills itself, with
that probability, after a transaction's records are written and before it is committed; `certainly`, at the
first one. A `name` is that of its members (`NamesMembers`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer

from eventml.backends import kafka
from eventml.backends.base import Completion
from eventml.errors import BackendError
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def work(options: dict[str, Any]) -> None:
    pause, to = options.get("pause", 0.0), options["to"]
    async with (
        _opened(options) as backend,
        backend.subscribe([options["topic"]], group=options["group"], start="earliest") as subscription,
    ):
        while True:
            try:
                taken = await subscription.receive(options.get("limit", 50))
                await asyncio.sleep(pause)
                done = [
                    Completion(d, (Record(to, d.record.value, d.record.key, f"{d.record.id}/made"),))
                    for d in taken
                ]
                await until_completed(subscription, done)
            except BackendError:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def _opened(options: dict[str, Any]) -> AsyncIterator[kafka.KafkaBackend]:
    async with kafka.open(options["url"], kafka.Settings(**options["settings"])) as backend:
        if options.get("name"):
            backend.name_members(options["name"])
        yield backend


async def until_completed(subscription: Any, done: list[Completion]) -> None:
    while True:
        try:
            await subscription.complete(done)
        except BackendError:
            await asyncio.sleep(0.1)
        else:
            return


def die_before_commit(chance: float, *, certainly: bool) -> None:
    commit = AIOKafkaProducer.commit_transaction

    async def commit_or_die(producer: AIOKafkaProducer) -> None:
        if certainly or random.random() < chance / 2:
            os.kill(os.getpid(), signal.SIGKILL)  # before the commit is requested
        committing = asyncio.ensure_future(commit(producer))
        if random.random() < chance / 2:
            await asyncio.sleep(random.random() / 200)
            os.kill(os.getpid(), signal.SIGKILL)  # while it is
        await committing

    AIOKafkaProducer.commit_transaction = commit_or_die


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    choices = json.loads(sys.argv[1])
    if choices.get("die"):
        die_before_commit(choices["die"], certainly=choices.get("certainly", False))
    asyncio.run(work(choices))
