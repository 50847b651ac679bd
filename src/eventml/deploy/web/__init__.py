"""The web service: the predictors of a bus over HTTP, as a worker over a backend whose topics are requests.

Read `asgi_app.py` first: routes, admission and lifespan. `predict.py` and `events.py` are its two endpoints;
`http_messages.py` reads their requests and writes their responses. `request_backend.py` passes events to the
runtime. `server.py` runs the service on sockets, and `uvicorn_server.py` limits what a connection may hold;
`authentication.py` checks the token. `openapi.py` describes the service, on the page at `/docs` too.

It may import bus, runtime, config and deploy.workers. It needs the extra `web`.
"""

from eventml.errors import MissingExtraError

try:
    from eventml.deploy.web.asgi_app import WebService, application
    from eventml.deploy.web.authentication import Authenticator
    from eventml.deploy.web.server import (
        WebWorker,
        address_of,
        listen,
        loop_options,
        run_web_service,
        supervised_worker,
        web_worker,
    )
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] in {"starlette", "uvicorn", "httptools"}:
        raise MissingExtraError("web", "the web service") from exc
    raise

__all__ = [
    "Authenticator",
    "WebService",
    "WebWorker",
    "address_of",
    "application",
    "listen",
    "loop_options",
    "run_web_service",
    "supervised_worker",
    "web_worker",
]
