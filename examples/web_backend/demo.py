"""The app in one command: `python -m examples.web_backend.demo --help`."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from anyio.from_thread import start_blocking_portal
from werkzeug.serving import WSGIRequestHandler, make_server

from eventml.errors import EventMLError
from examples.web_backend.app import create_app
from examples.web_backend.board import Board
from examples.web_backend.listening import bus, listening, predicting

if TYPE_CHECKING:
    from collections.abc import Sequence

    import flask
    from werkzeug.serving import BaseWSGIServer

HOST: Final = "127.0.0.1"


class Connection(WSGIRequestHandler):
    """Ends a connection whose client sends or reads nothing for so many seconds."""

    timeout = 30


def serve(backend: str | None, port: int) -> None:
    """Serve until SIGTERM or an interrupt, for this machine only.

    In memory the predictors run in this process, beside the server; elsewhere in one of their own.
    """
    bus.configure(bus.read_settings({"backend": backend} if backend else {}))
    url = bus.settings.backend.url
    board = Board()
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal(name="predictions"))
        if url.startswith("memory:"):
            stack.enter_context(portal.wrap_async_context_manager(predicting(url)))
        else:
            say("the predictors are another process: eventml run examples.rides.app:bus --backend URL")
        stack.enter_context(portal.wrap_async_context_manager(listening(board)))
        producer = stack.enter_context(bus.producer())
        server = listen(create_app(producer, board), port)
        stack.callback(server.server_close)
        say(f"open http://{HOST}:{server.server_port}")
        server.serve_forever()


def listen(app: flask.Flask, port: int) -> BaseWSGIServer:
    """Return a server of the app for this machine, under its own names only: it has no login."""
    app.config["TRUSTED_HOSTS"] = [HOST, "localhost"]
    return make_server(HOST, port, app, threaded=True, request_handler=Connection)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if it was stopped, 2 if it could not run."""
    parser = argparse.ArgumentParser("python -m examples.web_backend.demo", description=__doc__)
    parser.add_argument("--backend", metavar="URL", help="memory://, redis://..., kafka://...")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (8000)")
    options = parser.parse_args(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(options.backend, options.port)
    except KeyboardInterrupt:
        return 0
    except EventMLError as exc:
        say(f"error: {exc}")
        return 2
    except OSError as exc:
        say(f"error: cannot listen on {HOST}:{options.port}: {exc.strerror}; choose another --port")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
