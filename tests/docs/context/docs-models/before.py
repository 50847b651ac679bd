from pathlib import Path

import pandas as pd
from rides import DurationPredicted, RideStarted
from sklearn.linear_model import LinearRegression

import eventml
from eventml import Bus

bus = Bus("rides")
FEATURES = ["trip_distance"]
rides = pd.DataFrame({"ride_id": ["r-1", "r-2", "r-3"], "trip_distance": [1.0, 2.0, 4.0]})
Path("models").mkdir(exist_ok=True)


def trips() -> tuple[list[list[float]], list[float]]:
    return [[1.0], [2.0], [4.0]], [6.0, 10.0, 18.0]


def train(data: tuple[list[list[float]], list[float]]) -> LinearRegression:
    return LinearRegression().fit(*data)


def make_network() -> object:
    raise NotImplementedError  # the page names it; nothing loads that model


model = LinearRegression().fit(rides[FEATURES], trips()[1])
