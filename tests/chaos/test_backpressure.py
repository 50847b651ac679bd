"""A producer ten times faster than its consumer: the backlog stays in the broker, and memory stays flat."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.conftest import BATCH, SECONDS

if TYPE_CHECKING:
    from tests.chaos.conftest import Broker
    from tests.chaos.load import Load
    from tests.deploy.conftest import Serve

SLEEP = 0.16
RATE = int(10 * BATCH / SLEEP)
"""Events a second: ten times what one worker handles."""

MIB = 1 << 20


def resident(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_memory_is_flat(serve: Serve, broker: Broker, load: Load) -> None:
    service = serve("--workers", "1", env={"MAX_BATCH": str(BATCH), "SLEEP": str(SLEEP)})
    service.until_ready()
    [worker] = service.workers
    with load.running(RATE):
        time.sleep(2)  # buffers fill
        early = [resident(worker)]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(0.5)
            early.append(resident(worker))
            assert service.metric("eventml_events_in_flight") <= 6 * BATCH
    late = early[len(early) // 2 :]
    completed = service.metric("eventml_events_completed_total")
    assert 0 < completed < load.published / 3, (completed, load.published)
    assert max(late) < max(early[: len(early) // 2]) + 16 * MIB, [size // MIB for size in early]
    print(f"{broker.kind}: {load.published} published, {completed:.0f} completed, {max(late) // MIB} MiB")  # noqa: T201
    assert service.stop(60) == 0
