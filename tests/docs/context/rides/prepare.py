"""Make the model and the data that the pages take as known."""

import sqlite3
from pathlib import Path

import anyio
import pandas as pd
import skops.io
from sklearn.linear_model import LinearRegression

from rides import RideStarted, bus

model = LinearRegression().fit([[1.0], [2.0], [4.0]], [6.0, 10.0, 18.0])
Path("models").mkdir()
for name in ("duration", "duration-2"):
    skops.io.dump(model, f"models/{name}.skops")

rides = pd.DataFrame(
    {"ride_id": ["r-1", "r-2"], "trip_distance": [4.2, 2.0], "pickup_location_id": [132, 236]}
)
rides.to_csv("trips.csv", index=False)
rides.to_json("rides.jsonl", orient="records", lines=True)
rides.to_parquet("trips.parquet")
for name in ("rides.db", "trips.db"):
    with sqlite3.connect(name) as database:
        rides.to_sql("rides", database, index=False)


async def fail() -> None:
    """Leave a dead letter on the stream."""
    async with bus:
        await bus.publish("rides.started", RideStarted("r-1", 4.2))
        await bus.publish("rides.started", {"ride_id": "r-17"}, id="r-17")
    await bus.run(until_idle=0.5)


anyio.run(fail)
