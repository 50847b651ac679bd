"""Models in registries: which revision a reference names now, and a copy of it in the cache.

A registry is a module, named in the entry point group `eventml.model_registries` by the scheme of its
references (`s3` of `s3://models/duration.skops`). eventml's own are registered like those of other
packages.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Protocol, cast

from eventml.entry_points import registered
from eventml.errors import EventMLError, ModelError, ModelNotFoundError, UntrustedModelError
from eventml.loopback import is_loopback_name
from eventml.models.artefacts import Artefact

_GROUP: Final = "eventml.model_registries"
_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):(.+)", re.DOTALL)  # two letters: `C:` is a drive
_URL: Final = re.compile(r"([a-zA-Z0-9+.-]+://)(?:[^/?#]*@)?(([^/?#]*)[^?#]*)(?s:.*)")


class Resolved(NamedTuple):
    """What a reference names now: an immutable revision, equal while the model is, and the model's name."""

    revision: str
    name: str


class ModelRegistry(Protocol):
    """A registry's module. It may raise any exception, and FileNotFoundError if a model is not there."""

    def resolve(self, reference: str) -> Resolved:
        """Find what a reference names now, by a small request or none, and download nothing."""
        ...

    def fetch(self, reference: str, revision: str, folder: Path) -> None:
        """Download a revision to an empty folder: one file, or the files of a folder."""


def registry_of(artefact: Artefact) -> ModelRegistry | None:
    """The registry of an artefact; None if it is a file. An unknown scheme with `//` is a ModelError."""
    found = _SCHEME.fullmatch(artefact.path) if isinstance(artefact.path, str) else None
    registries, scheme = registered(_GROUP), "" if found is None else found[1].lower()
    if found is None or (scheme not in registries and not found[2].startswith("//")):
        return None
    if scheme not in registries:
        known = ", ".join(sorted(registries))
        raise ModelError(f"{shown(artefact)}: {found[1]} is no known registry; known are {known}")
    url = _URL.fullmatch(found[0])
    if url and url[1].lower() == "http://" and not (artefact.sha256 or is_loopback_name(url[3])):
        raise UntrustedModelError(f"{shown(artefact)}: without encryption it needs a sha256; or use https")
    return cast("ModelRegistry", registries[scheme].load())


def shown(artefact: Artefact) -> str:
    """The path of an artefact for a message: a URL without user, password and query, which may be secret."""
    url = _URL.fullmatch(str(artefact.path))
    return url[1] + url[2] if url else str(artefact.path)


def cache_folder() -> Path:
    """Return the folder of what can be made again: `EVENTML_CACHE`, by default the user's cache."""
    base = os.environ.get("EVENTML_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "eventml")
    return Path(base).expanduser()


def fetched(registry: ModelRegistry, artefact: Artefact, revision: str) -> Path:
    """The path of a revision in the cache. If it is not there it is downloaded, also by several processes."""
    key = hashlib.sha256(f"{artefact.path}\n{revision}".encode()).hexdigest()[:32]
    place = cache_folder() / "models" / key
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=place.parent, ignore_cleanup_errors=True) as own:
            registry.fetch(str(artefact.path), revision, Path(own, key))
            try:
                Path(own, key).rename(place)  # whole or not at all
            except OSError:
                if not place.exists():  # else another process was first
                    raise
    files = [path for path in place.rglob("*") if path.is_file()]
    return files[0] if len(files) == 1 else place


@contextmanager
def translated(artefact: Artefact) -> Iterator[None]:
    """Translate errors of a registry or the file system to eventml's, without the secrets of a URL."""
    try:
        yield
    except EventMLError:
        raise
    except FileNotFoundError as exc:
        place = "" if _SCHEME.match(str(artefact.path)) else f" (looked for {Path(artefact.path).absolute()})"
        raise ModelNotFoundError(f"there is no model at {shown(artefact)}{place}") from exc
    except Exception as exc:
        if shown(artefact) == str(artefact.path):
            raise ModelError(f"the model at {artefact.path} cannot be read: {exc}") from exc
        # A client's message may repeat the whole URL.
        raise ModelError(f"the model at {shown(artefact)} cannot be read: {type(exc).__name__}") from None
