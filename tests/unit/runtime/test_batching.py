"""Natural batching: what waits is taken, up to the cap, and nothing else decides the size of a batch."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from eventml.runtime.intake import Intake

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]


@given(
    cap=st.integers(1, 8),
    sizes=st.lists(st.integers(1, 8), max_size=30),
    pauses=st.lists(st.integers(0, 3), min_size=1),
)
async def test_nothing_is_lost_order_is_kept_and_both_bounds_hold(
    cap: int, sizes: list[int], pauses: list[int], anyio_backend: str
) -> None:
    """One receiver that asks for room, and one taker, at any pace of either."""
    intake: Intake[int] = Intake(cap)
    sent: list[int] = []
    taken: list[list[int]] = []
    longest = 0

    async def receive() -> None:
        nonlocal longest
        for turn, size in enumerate(sizes):
            await intake.room()
            items = list(range(len(sent), len(sent) + min(size, cap)))
            sent.extend(items)
            intake.put(items)
            longest = max(longest, len(intake._items))
            for _ in range(pauses[turn % len(pauses)]):
                await checkpoint()
        intake.close()

    async def take() -> None:
        turn = 0
        while batch := (await intake.take())[0]:
            taken.append(batch)
            turn += 1
            for _ in range(pauses[-turn % len(pauses)]):
                await checkpoint()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            tasks.start_soon(receive)
    assert [item for batch in taken for item in batch] == sent
    assert all(1 <= len(batch) <= cap for batch in taken)
    assert longest <= 2 * cap, "the buffer holds two batches at most"
    assert intake.drained


@given(cap=st.integers(1, 8), waiting=st.integers(1, 20))
async def test_a_take_returns_all_that_waits_up_to_the_cap(
    cap: int, waiting: int, anyio_backend: str
) -> None:
    intake: Intake[int] = Intake(cap)
    intake.put(range(waiting))
    assert (await intake.take())[0] == list(range(min(cap, waiting)))
    assert len(intake._items) == waiting - min(cap, waiting)


async def test_a_cancelled_take_has_taken_nothing() -> None:
    intake: Intake[int] = Intake(3)
    with anyio.move_on_after(0.01) as scope:
        await intake.take()
    assert scope.cancelled_caught
    intake.put([2, 3, 4])
    with anyio.fail_after(10):
        assert (await intake.take())[0] == [2, 3, 4]


async def test_the_room_is_full_from_more_than_a_batch_on() -> None:
    intake: Intake[int] = Intake(2)
    for items in ([1, 2], [3]):
        with anyio.fail_after(10):
            await intake.room()
        intake.put(items)
    with anyio.move_on_after(0.01) as scope:
        await intake.room()
    assert scope.cancelled_caught, "three wait, and a batch is two"
    await intake.take()
    with anyio.fail_after(10):
        await intake.room()


@given(
    puts=st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=12), cap=st.integers(1, 6)
)
async def test_a_batch_with_an_item_that_was_put_to_be_screened_is_screened(
    puts: list[tuple[int, bool]], cap: int, anyio_backend: str
) -> None:
    intake: Intake[bool] = Intake(cap)
    for size, screen in puts:
        intake.put([screen] * size, screen=screen)
    while len(intake._items):
        items, screen = await intake.take()
        assert screen >= any(items)
    intake.put([False])
    assert not (await intake.take())[1], "all that had to be screened was taken before"
