"""Models at `https://`, `s3://` and `gs://`, read by fsspec: a file, or with a slash at the end a folder.

fsspec's and the stores' own settings have the credentials (`AWS_PROFILE`, `GOOGLE_APPLICATION_CREDENTIALS`).
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from eventml.errors import MissingExtraError, ModelError
from eventml.models.formats import import_extra
from eventml.models.registries import Resolved

if TYPE_CHECKING:
    from pathlib import Path

_MARKS: Final = ("ETag", "etag", "generation", "Content-MD5", "Last-Modified")
"""What changes when a file's content does, best first: the stores' names in the properties of a file."""


def _listed(reference: str) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The file system, and the properties of each file by its path in the model's folder."""
    scheme = reference.partition(":")[0]
    extra = "https" if scheme == "http" else scheme
    fsspec = import_extra("fsspec", extra, f"loading models from {scheme}")
    try:
        store, path = fsspec.core.url_to_fs(reference, use_listings_cache=False)
    except ImportError as exc:  # fsspec is there, and the package for the scheme is not
        raise MissingExtraError(extra, f"loading models from {scheme}") from exc
    store.invalidate_cache()
    if not reference.endswith("/"):
        return store, {PurePosixPath(urlsplit(reference).path).name: store.info(path)}
    inside = len(path.rstrip("/")) + 1
    found = {name[inside:]: info for name, info in store.find(path, detail=True).items()}
    if not found:
        raise FileNotFoundError(reference)
    return store, found


def _revision(found: dict[str, dict[str, Any]]) -> str:
    marks = hashlib.sha256()
    for path, info in sorted(found.items()):
        mark = next((str(info[key]) for key in _MARKS if info.get(key)), None)
        if mark is None:
            raise ModelError(
                "the server sends neither an ETag nor a date, which tell a model's versions apart"
            )
        marks.update(f"{path}\n{mark}\n{info.get('size')}\n".encode())
    return marks.hexdigest()


def resolve(reference: str) -> Resolved:
    """Ask for the properties of the file, or of each file of the folder."""
    return Resolved(_revision(_listed(reference)[1]), PurePosixPath(urlsplit(reference).path).stem)


def fetch(reference: str, revision: str, folder: Path) -> None:
    """Download the file, or the files of the folder."""
    store, found = _listed(reference)
    for path, info in found.items():
        if ".." in PurePosixPath(path).parts:
            raise ValueError("the name of a file leads out of the folder")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(info["name"], str(target))
    if not revision == _revision(found) == _revision(_listed(reference)[1]):
        raise ModelError("the model changed while it was downloaded; load it again")
