"""The Flask app: `POST /rides` announces a ride, `GET /events` streams the state of all rides.

It neither knows nor waits for the predictors: it publishes "ride started", and the page shows the
predictions when they come.
"""

from __future__ import annotations

import queue
import secrets
import threading
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import flask
import msgspec

from eventml.errors import BackendError
from examples.rides.events import RideStarted
from examples.rides.generator import generate
from examples.rides.trips import rides

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventml import BlockingProducer
    from examples.web_backend.board import Board

_PAGE: Final = Path(__file__).with_name("page.html")
_KEEP_ALIVE: Final = 15.0  # seconds; a proxy closes a connection on which nothing comes
_LARGEST: Final = 10_000  # bytes of a request
_STREAMS: Final = 50  # open at once: each holds one of the server's threads

Zone = Annotated[int, msgspec.Meta(ge=1, le=265)]


class Booking(msgspec.Struct, forbid_unknown_fields=True):
    """A ride as the page's form describes it. The server adds the id and the time."""

    pickup_location_id: Zone
    dropoff_location_id: Zone
    trip_distance: Annotated[float, msgspec.Meta(gt=0, le=100)]
    passenger_count: Annotated[int, msgspec.Meta(ge=1, le=6)] = 1


def create_app(producer: BlockingProducer, board: Board, streams: int = _STREAMS) -> flask.Flask:
    """Create the Flask app.

    Args:
        producer: An open producer, shared by Flask's threads.
        board: The board that the predictions are added to.
        streams: The most streams of `GET /events` that are open at once.
    """
    app = flask.Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = _LARGEST
    suggestions = cycle(_suggestions())
    free_streams = threading.BoundedSemaphore(streams)
    app.before_request(_refuse_other_sites)

    @app.get("/")
    def page() -> flask.Response:
        return flask.send_file(_PAGE, max_age=0)

    @app.post("/rides")
    def start_ride() -> tuple[dict[str, str], int]:
        if flask.request.mimetype != "application/json":
            flask.abort(415)
        booking = msgspec.json.decode(flask.request.get_data(), type=Booking)
        ride = RideStarted(
            ride_id=secrets.token_hex(4),
            pickup_datetime=datetime.now(UTC),
            **msgspec.structs.asdict(booking),
        )
        producer.publish("rides.started", ride, key=str(ride.pickup_location_id))
        return {"ride_id": ride.ride_id}, 202

    @app.get("/suggestion")
    def suggest() -> dict[str, Any]:
        return next(suggestions)

    @app.get("/events")
    def events() -> flask.Response:
        if not free_streams.acquire(blocking=False):
            return flask.Response("retry: 10000\n\n", mimetype="text/event-stream")  # come again in 10 s
        stream = flask.Response(_server_sent(board), mimetype="text/event-stream")
        stream.call_on_close(free_streams.release)
        stream.headers["Cache-Control"] = "no-cache"
        return stream

    @app.errorhandler(msgspec.DecodeError)
    def refuse(error: msgspec.DecodeError) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, 400

    @app.errorhandler(BackendError)
    def apologise(error: BackendError) -> tuple[dict[str, str], int]:
        app.logger.error("a ride could not be announced: %s", error)
        return {"error": "The ride could not be announced. Please try again."}, 503

    return app


def _refuse_other_sites() -> None:
    """Refuse what a page of another site makes a browser send; it may only link to the page."""
    request = flask.request
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:  # an older browser, or none
        origin = request.headers.get("Origin")
        site = "same-origin" if origin is None or urlsplit(origin).netloc == request.host else "cross-site"
    if site not in {"same-origin", "none"} and request.path != "/":
        flask.abort(403)


def _server_sent(board: Board) -> Iterator[str]:
    """Yield the board as server-sent events, until the browser disconnects or is too slow."""
    with board.watching() as watcher:
        yield "retry: 1000\n\n"
        while True:
            try:
                ride = watcher.get(timeout=_KEEP_ALIVE)
            except queue.Empty:
                yield ": still here\n\n"
                continue
            if ride is None:
                return
            yield f"data: {msgspec.json.encode(ride).decode()}\n\n"


def _suggestions() -> list[dict[str, Any]]:
    """Return plausible rides of the example's made-up city, to fill the form with."""
    trips = generate(500, secrets.randbelow(1_000), part="live")
    return [
        {
            "pickup_location_id": ride.pickup_location_id,
            "dropoff_location_id": ride.dropoff_location_id,
            "trip_distance": ride.trip_distance,
            "passenger_count": min(max(ride.passenger_count or 1, 1), 6),
        }
        for ride in rides(trips.take(trips.is_ride))
    ]
