"""Leave a dead letter on the stream."""

import anyio

from rides import bus


async def fail() -> None:
    async with bus:
        await bus.publish("rides.started", {"ride_id": "r-17"}, id="r-17")
    await bus.run(until_idle=0.5)


anyio.run(fail)
