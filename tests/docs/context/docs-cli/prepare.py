"""Leave a dead letter on Redis, the topics on Kafka, and the contract of the app in a file."""

import subprocess

import anyio

from rides import bus


async def fail() -> None:
    async with bus:
        await bus.publish("rides.started", {"ride_id": "r-17"}, id="r-17")
    await bus.run(until_idle=0.5)


anyio.run(fail)
with open("rides.json", "w") as file:
    subprocess.run(["eventml", "schema", "rides:bus"], stdout=file, check=True)
subprocess.run(
    ["eventml", "topics", "create", "rides:bus", "--backend", "kafka://localhost:9092"], check=True
)
