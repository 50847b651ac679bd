"""Models at `https://`, `s3://`, `gs://`, `az://` and `hf:` (Hugging Face's hub): files and folders.

They are read by fsspec. The stores' own settings have addresses and credentials (`AWS_PROFILE`, `HF_TOKEN`).
Batch jobs read and write their data by `open_store` and `resolve`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

from eventml.errors import MissingExtraError, ModelError
from eventml.models.formats import import_extra
from eventml.models.registries import Resolved

_MARKS: Final = ("ETag", "etag", "blob_id", "generation", "Last-Modified")
"""Properties of files that change with the content, by their names in the stores."""
_NOT_LOADED: Final = (".bin", ".h5", ".msgpack", ".ot", ".ckpt", ".py")  # pickles and code, in folders


def open_store(reference: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, without cached listings, and the path in it.

    Raises:
        MissingExtraError: The package for the scheme is not installed.
    """
    scheme, _, rest = reference.partition(":")
    extra, feature = "https" if scheme == "http" else scheme, f"reading from {scheme}"
    fsspec = import_extra("fsspec", extra, feature)
    try:
        store, path = fsspec.core.url_to_fs(f"{scheme}://{rest.removeprefix('//')}", use_listings_cache=False)
    except ImportError as exc:  # fsspec is there, and the package for the scheme is not
        raise MissingExtraError(extra, feature) from exc
    store.invalidate_cache()
    return store, path


def _found(reference: str) -> tuple[Any, dict[str, dict[str, Any]], str]:
    """The file system, the properties of each file by its path in the model's folder, and their digest."""
    store, path = open_store(reference)
    try:
        found = {PurePosixPath(urlsplit(reference).path).name: store.info(path)}
    except FileNotFoundError as exc:
        cause = exc.__cause__ if reference.startswith("http") else None
        if cause is not None and getattr(cause, "status", 0) not in (404, 410):
            raise cause from None  # the client says so of a server that is away too
        raise
    if "directory" in (info["type"] for info in found.values()):
        root = len(path.rstrip("/")) + 1
        files = store.find(path, detail=True)
        found = {name[root:]: info for name, info in files.items() if not name.endswith(_NOT_LOADED)}
    digest = hashlib.sha256()
    for name, info in sorted(found.items()):
        if not (mark := next((info[key] for key in _MARKS if info.get(key)), None)):
            raise ModelError("the server sends neither an ETag nor a date to tell versions apart")
        digest.update(f"{name}\n{mark}\n{info.get('size')}\n".encode())
    return store, found, digest.hexdigest()


def resolve(reference: str) -> Resolved:
    """Ask for the properties of the file, or of each file of the folder. The revision is their digest."""
    name = PurePosixPath(urlsplit(reference).path).name.partition("@")[0]  # `hf:team/rides@v1.2`
    return Resolved(_found(reference)[2], PurePosixPath(name).stem)


def fetch(reference: str, revision: str, folder: Path) -> None:
    """Download the file, or the files of the folder."""
    store, found, before = _found(reference)
    for name, info in found.items():
        if ".." in PurePosixPath(name).parts:
            raise ValueError("the name of a file leads out of the folder")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(info["name"], str(target))
    if not revision == before == _found(reference)[2]:
        raise ModelError("the model changed while it was downloaded; load it again")
