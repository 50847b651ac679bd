"""Models on Hugging Face's hub: `hf:OWNER/NAME[/FILE][@REVISION]`, a whole repository or one file of it.

The client's own settings say which hub and which token (`HF_ENDPOINT`, `HF_TOKEN`). A revision is a branch, a tag
or a commit, by default `main`.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Final

from eventml.errors import ModelError
from eventml.models.formats import import_extra
from eventml.models.registries import Resolved

_REFERENCE: Final = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:/([^@]+))?(?:@(.+))?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_PICKLES: Final = (
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.pkl",
    "*.pickle",
    "*.joblib",
    "*.h5",
    "*.msgpack",
    "*.py",
)
"""Files of a repository that are never loaded: pickles and code, and weights for other libraries."""


def _parts(reference: str) -> tuple[str, str | None, str]:
    if (found := _REFERENCE.fullmatch(reference)) is None:
        raise ModelError(
            f"{reference}: write hf:OWNER/NAME, hf:OWNER/NAME/FILE, and perhaps @REVISION behind it"
        )
    return found[1], found[2], found[3] or "main"


def resolve(reference: str) -> Resolved:
    """Find the commit of a branch or a tag. A commit is its own, and the hub is not asked."""
    repository, file, revision = _parts(reference)
    name = PurePosixPath(file or repository).stem if file else repository.partition("/")[2]
    if _COMMIT.fullmatch(revision):
        return Resolved(revision, name)
    hub = import_extra("huggingface_hub", "hub", f"loading {reference}")
    try:
        commit = hub.HfApi().model_info(repository, revision=revision).sha
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as exc:
        raise FileNotFoundError(str(exc)) from exc
    return Resolved(str(commit), name)


def fetch(reference: str, revision: str, folder: Path) -> None:
    """Download a file of a commit, or all of its files but pickles and code."""
    repository, file, _ = _parts(reference)
    hub = import_extra("huggingface_hub", "hub", f"loading {reference}")
    try:
        if file is None:
            hub.snapshot_download(repository, revision=revision, local_dir=folder, ignore_patterns=_PICKLES)
        else:
            hub.hf_hub_download(repository, file, revision=revision, local_dir=folder)
    except (hub.errors.RepositoryNotFoundError, hub.errors.EntryNotFoundError) as exc:
        raise FileNotFoundError(str(exc)) from exc
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's notes, with the time of the download
