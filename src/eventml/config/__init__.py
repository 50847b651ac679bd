"""Configuration: settings from `eventml.toml`, `EVENTML_*` and the command line, validated.

Read `settings.py` (the settings, their limits, and checking one value), then `sources.py` (the file with its
profiles, the variables and the command line, merged). `backends.py` chooses the backend and finds its module,
`urls.py` handles URLs, `${NAME}` and secrets. It may import handler_options, backends.base, entry_points and
errors.
"""

from eventml.config.backends import find_backend
from eventml.config.settings import BackendSettings, Settings, TopicSettings, WebSettings, check_known
from eventml.config.sources import FILE_VARIABLE, PROFILE_VARIABLE, load
from eventml.config.urls import InvalidValueError, expand_url, redact, split_url, without_secrets

__all__ = [
    "FILE_VARIABLE",
    "PROFILE_VARIABLE",
    "BackendSettings",
    "InvalidValueError",
    "Settings",
    "TopicSettings",
    "WebSettings",
    "check_known",
    "expand_url",
    "find_backend",
    "load",
    "redact",
    "split_url",
    "without_secrets",
]
