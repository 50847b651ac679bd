"""Files by their location: on this machine, or in a store that fsspec reads and writes."""

from __future__ import annotations

import io
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from pyarrow import fs

from eventml.config import without_secrets
from eventml.errors import EventMLError, JobError, ModelError, SourceError, TargetError
from eventml.models import open_store, resolve, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventml.deploy.batch.locations import FileLocation

_BLOCK: Final = 4 << 20  # bytes in one request


@contextmanager
def store_errors(
    location: FileLocation, error: type[JobError], doing: str, place: Callable[[], str] = str
) -> Iterator[None]:
    """Raise `error` in place of exceptions of stores' and formats' libraries; its text has no password."""
    try:
        yield
    except ModelError as exc:  # of `open_store` and `resolve`, which models use too
        raise error(f"{location}: {exc}") from exc
    except EventMLError:
        raise
    except FileNotFoundError as exc:
        raise error(f"{location}: No such file or directory") from exc
    except Exception as exc:  # noqa: BLE001 - the stores' clients raise any kind
        reason = getattr(exc, "strerror", None) or str(exc).partition("\n")[0] or type(exc).__name__
        secret = without_secrets(str(exc), location.url) != str(exc)
        text = f"{location}: cannot be {doing}{place()}: {without_secrets(reason, location.url)}"
        if location.url.startswith("s3:") and "credentials" in reason:
            text += ": set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise error(text) from (None if secret else exc)


def check_bucket(location: FileLocation) -> None:
    """Raise TargetError if a bucket in S3 does not exist: the last write would tell that, or create it."""
    if not location.url.startswith("s3:"):
        return
    store, path = open_store(location.url)
    try:
        store.info(bucket := path.partition("/")[0])
    except FileNotFoundError as exc:
        raise TargetError(f"{location}: there is no bucket {bucket!r}") from exc
    except Exception:  # noqa: BLE001, S110 - the credentials may not allow to ask; the write will tell
        pass


def open_file(location: FileLocation) -> io.BufferedReader:
    """Open a file to read it, buffered; one in a store is read by requests for ranges of it."""
    if not location.url:
        return location.path.open("rb")
    with store_errors(location, SourceError, "read"):
        store, path = open_store(location.url)
        stream = store.open(path, "rb", block_size=_BLOCK)
        return io.BufferedReader(stream, _BLOCK)


def fingerprint_of(location: FileLocation) -> str:
    """Return a text that changes when the file, or one in the folder, is written or replaced."""
    with store_errors(location, SourceError, "read"):
        if location.url:
            return resolve(location.url).revision
        return sha256(repr(state_of(location.path)).encode()).hexdigest()


def file_system(location: FileLocation) -> tuple[str, fs.FileSystem]:
    """Return a path, and the file system that it is in."""
    if not location.url:
        return str(location.path), fs.LocalFileSystem()
    store, path = open_store(location.url)
    return path.rstrip("/"), fs.PyFileSystem(fs.FSSpecHandler(store))
