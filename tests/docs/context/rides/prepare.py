"""Make the model and the data that the pages take as known."""

import sqlite3
from pathlib import Path

import pandas as pd
import skops.io
from sklearn.linear_model import LinearRegression

model = LinearRegression().fit([[1.0], [2.0], [4.0]], [6.0, 10.0, 18.0])
Path("models").mkdir()
for name in ("duration", "duration-2"):
    skops.io.dump(model, f"models/{name}.skops")

rides = pd.DataFrame(
    [{"ride_id": f"r-{n}", "trip_distance": n / 2, "pickup_location_id": 100 + n % 3} for n in range(1, 13)]
)
for name in ("rides.csv", "trips.csv"):
    rides.to_csv(name, index=False)
rides.to_json("rides.jsonl", orient="records", lines=True)
rides.to_parquet("trips.parquet")
for name in ("rides.db", "trips.db"):
    with sqlite3.connect(name) as database:
        rides.to_sql("rides", database, index=False)
