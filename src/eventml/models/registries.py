"""Models in registries: which revision a reference names now, and a copy of it in the cache.

A registry is a module, named in the entry point group `eventml.model_registries` by the scheme of its
references (`s3` of `s3://models/duration.skops`). Ours are registered in the way a third party's are.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

from eventml.errors import EventMLError, ModelError, ModelNotFoundError, UntrustedModelError
from eventml.loopback import is_loopback
from eventml.models.artefacts import Artefact
from eventml.models.formats import registered

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROUP: Final = "eventml.model_registries"
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+):(.+)", re.DOTALL)  # two letters: `C:` is a drive


class Resolved(NamedTuple):
    """What a reference names now.

    Attributes:
        revision: An immutable version in the registry: while it is equal, so is the model.
        name: Name of the model in the registry.
    """

    revision: str
    name: str


class ModelRegistry(Protocol):
    """The functions of a registry's module.

    Both may raise any exception; FileNotFoundError if there is no such model.
    """

    def resolve(self, reference: str) -> Resolved:
        """Find what a reference names now, with one small request or none, and download nothing."""

    def fetch(self, reference: str, revision: str, folder: Path) -> None:
        """Download a revision to an empty folder: one file, or the content of a folder."""


def registry_of(artefact: Artefact) -> ModelRegistry | None:
    """The registry of an artefact; None if it is a file."""
    found = _SCHEME.fullmatch(artefact.path) if isinstance(artefact.path, str) else None
    registries = registered(_GROUP)
    if found is None or (found[1] not in registries and not found[2].startswith("//")):
        return None
    if found[1] not in registries:
        known = ", ".join(sorted(registries))
        raise ModelError(
            f"{shown(artefact)}: no registry of models is known for {found[1]}: (known: {known})"
        )
    url = urlsplit(str(artefact.path))
    if url.scheme == "http" and artefact.sha256 is None and not is_loopback(url.hostname or ""):
        raise UntrustedModelError(
            f"{shown(artefact)}: without encryption anyone on the way can replace the model; use https, or pin "
            "it with its sha256"
        )
    return cast("ModelRegistry", registered(_GROUP)[found[1]].load())


def shown(artefact: Artefact) -> str:
    """The path of an artefact for a message: a URL without user, password and query, which may be secret."""
    head, _, rest = str(artefact.path).partition("://")
    return f"{head}://{rest.partition('?')[0].rpartition('@')[2]}" if rest else head


def resolve_reference(registry: ModelRegistry, artefact: Artefact) -> Resolved:
    """What an artefact's reference names now.

    Raises:
        ModelNotFoundError: There is no such model.
        ModelError: The registry cannot be reached, or refuses.
        MissingExtraError: The registry's client is not installed.
    """
    with _translated(artefact, "resolved"):
        return registry.resolve(str(artefact.path))


def fetched(registry: ModelRegistry, artefact: Artefact, revision: str) -> Path:
    """The path of a revision in the cache; it is downloaded if it is not there yet.

    Several processes may do so at once: each downloads to a folder of its own, and the first one stays.

    Raises:
        ModelNotFoundError, ModelError, MissingExtraError: As `resolve_reference`.
    """
    key = hashlib.sha256(f"{artefact.path}\n{revision}".encode()).hexdigest()[:32]
    base = os.environ.get("EVENTML_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "eventml")
    place = Path(base, "models", key).expanduser()
    if not place.exists():
        with _translated(artefact, f"downloaded to {place} (EVENTML_CACHE sets another folder)"):
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=place.parent, ignore_cleanup_errors=True) as new:
                registry.fetch(str(artefact.path), revision, Path(new, "model"))
                try:
                    Path(new, "model").rename(place)
                except OSError:
                    if not place.exists():
                        raise
    files = [path for path in place.rglob("*") if path.is_file()]
    return files[0] if len(files) == 1 else place


@contextmanager
def _translated(artefact: Artefact, done: str) -> Iterator[None]:
    try:
        yield
    except EventMLError:
        raise
    except FileNotFoundError as exc:
        raise ModelNotFoundError(f"there is no model at {shown(artefact)}") from exc
    except Exception as exc:
        # A client's message may repeat the whole URL.
        secret = "?" in str(artefact.path) or "@" in urlsplit(str(artefact.path)).netloc
        why = type(exc).__name__ if secret else f"{type(exc).__name__}: {exc}"
        raise ModelError(f"{shown(artefact)} cannot be {done}: {why}") from (None if secret else exc)
