"""Settings from `eventml.toml`, `[tool.eventml]`, `EVENTML_*` and the command line, validated.

`load` reads them; `find_backend` imports the backend that a URL's scheme chooses; `redact` makes a
URL fit to be shown.
"""

from eventml.config.backends import find_backend
from eventml.config.loading import load
from eventml.config.redaction import redact
from eventml.config.settings import BackendSettings, HandlerSettings, Settings, TopicSettings, WebSettings

__all__ = [
    "BackendSettings",
    "HandlerSettings",
    "Settings",
    "TopicSettings",
    "WebSettings",
    "find_backend",
    "load",
    "redact",
]
