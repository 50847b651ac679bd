"""The page at `/docs`: Swagger UI shows the OpenAPI document of the service, and sends requests.

The files in `swagger_ui/` are those of swagger-ui-dist 5.35.0 on npm, unchanged. The page loads nothing from
other hosts, and its policy allows no inline scripts.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from eventml.deploy.web.http_messages import header, send_response

if TYPE_CHECKING:
    from starlette.types import Scope, Send

_FOLDER: Final = Path(__file__).parent
_JAVASCRIPT: Final = "text/javascript; charset=utf-8"
_FILES: Final = {
    "/docs": ("docs_page.html", "text/html; charset=utf-8"),
    "/docs/docs_page.js": ("docs_page.js", _JAVASCRIPT),
    "/docs/swagger-ui-bundle.js": ("swagger_ui/swagger-ui-bundle.js", _JAVASCRIPT),
    "/docs/swagger-ui.css": ("swagger_ui/swagger-ui.css", "text/css; charset=utf-8"),
}
PATHS: Final = ("", *_FILES)

# Swagger UI sets styles on its elements, and its icons are data URLs.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def send_page(path: str, scope: Scope, send: Send) -> None:
    """Send the file at a path in `PATHS`; without one, and from `/docs/`, redirect to `/docs`.

    The links of the page are relative, so that it works where it is mounted and behind any proxy.
    """
    if not path or (path == "/docs" and scope["path"].endswith("/")):
        to = {"location": f"{scope.get('root_path', '')}/docs"}
        await send_response(send, HTTPStatus.TEMPORARY_REDIRECT, b"see /docs\n", "text/plain", to)
        return
    name, content_type = _FILES[path]
    headers = {"content-security-policy": POLICY, "vary": "accept-encoding"}
    if compress := "gzip" in (header(scope, b"accept-encoding") or ""):
        headers["content-encoding"] = "gzip"
    body = await anyio.to_thread.run_sync(_read, name, compress)
    await send_response(send, HTTPStatus.OK, body, content_type, headers)


@lru_cache
def _read(name: str, compress: bool) -> bytes:
    body = (_FOLDER / name).read_bytes()
    return gzip.compress(body) if compress else body
