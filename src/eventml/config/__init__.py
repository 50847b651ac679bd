"""Configuration: settings from `eventml.toml`, `[tool.eventml]`, `EVENTML_*` and the command line, validated.

Read `settings.py` (the settings and their limits), then `loading.py` (the files, and merging all sources).
`environment.py` reads the variables, `backends.py` chooses the backend and finds its module, `entries.py`
checks one value, `urls.py` handles URLs, `${NAME}` and secrets. It may import handlers, codec, backends.base
and errors.
"""

from eventml.config.backends import find_backend
from eventml.config.loading import load
from eventml.config.settings import BackendSettings, Settings, TopicSettings, WebSettings
from eventml.config.urls import InvalidValueError, expand_url, redact

__all__ = [
    "BackendSettings",
    "InvalidValueError",
    "Settings",
    "TopicSettings",
    "WebSettings",
    "expand_url",
    "find_backend",
    "load",
    "redact",
]
