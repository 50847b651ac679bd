"""A program that opens a producer, forks, and publishes in all its processes: `forked.py URL TOPIC FORKS`.

It prints how many events each of them has published, as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading

from eventml import Bus
from eventml.producer import BlockingProducer

EVENTS = 3
PATIENCE = 60  # seconds; only a process that hangs takes so long


def publish(producer: BlockingProducer, topic: str, by: str) -> None:
    signal.alarm(PATIENCE)
    for n in range(EVENTS):
        producer.publish(topic, {"by": by, "n": n})
    producer.publish_many(topic, [{"by": by, "n": EVENTS}])


def main(url: str, topic: str, forks: int) -> None:
    published: dict[str, int] = {}
    stop = threading.Event()

    def publish_until_stopped(by: str) -> None:  # some of its events are on their way when the process forks
        while not stop.is_set():
            producer.publish(topic, {"by": by, "n": published.get(by, 0)})
            published[by] = published.get(by, 0) + 1

    with Bus("forked", backend=url).producer() as producer:
        threads = [threading.Thread(target=publish_until_stopped, args=(f"thread-{n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        children = {}
        for n in range(forks):
            child = os.fork()
            if not child:
                publish(producer, topic, f"fork-{n}")
                sys.exit()  # leaves the `with`
            children[child] = f"fork-{n}"
        target = multiprocessing.get_context("fork").Process(target=publish, args=(producer, topic, "target"))
        target.start()
        for child, name in children.items():
            _, status = os.waitpid(child, 0)
            assert status == 0, (name, status)
            published[name] = EVENTS + 1
        target.join()
        assert target.exitcode == 0, target.exitcode
        published["target"] = EVENTS + 1
        stop.set()
        for thread in threads:
            thread.join()
        publish(producer, topic, "parent")
        published["parent"] = EVENTS + 1
    sys.stdout.write(json.dumps(published))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
