"""The folder of an unfinished run: a link, manifest or folder that somebody planted harms no other file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow.parquet as pq
import pytest

from eventml.deploy.batch.chunks import Checkpoint, RejectedRow, RunIdentity
from eventml.deploy.batch.file_target import FileTarget
from eventml.deploy.batch.locations import FORMATS, FileLocation
from eventml.errors import TargetError
from tests.batch.conftest import read, rides, write
from tests.batch.test_file_target import FILES, RUN, chunk_of

if TYPE_CHECKING:
    from tests.batch.conftest import ScoreNow

WORK = Path("out.parquet.eventml")


def target(file: str = "out.parquet") -> FileTarget:
    return FileTarget(FileLocation(Path(file), FORMATS[Path(file).suffix]), every=0.0)


@pytest.fixture
def private() -> list[Path]:
    """Files that no run may read, move or delete."""
    Path("private").mkdir(mode=0o700)
    found = [Path("private") / name for name in ("part-00000", "manifest.json", "letter.txt")]
    for path in found:
        path.write_bytes(b"secret")
    return found


def _link_to_a_folder() -> None:
    WORK.symlink_to("private", target_is_directory=True)


def _dangling_link() -> None:
    WORK.symlink_to("private/new", target_is_directory=True)


def _file() -> None:
    WORK.write_bytes(b"")


def _open_to_others() -> None:
    WORK.mkdir()
    WORK.chmod(0o770)


def _another_user_s() -> None:
    WORK.mkdir(mode=0o700)
    os.chown(WORK, 12345, 12345)


def _linked(name: str) -> None:
    WORK.mkdir(mode=0o700)
    (WORK / name).symlink_to(Path("private/letter.txt").absolute())


def _linked_lock() -> None:
    _linked("lock")


def _linked_rejects() -> None:
    _linked("rejects.jsonl")


def _hard_linked_rejects() -> None:
    WORK.mkdir(mode=0o700)
    os.link("private/letter.txt", WORK / "rejects.jsonl")


def _folder_inside() -> None:
    (WORK / "whole").mkdir(parents=True)
    WORK.chmod(0o700)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (_link_to_a_folder, "it is a link or a file"),
        (_dangling_link, "it is a link or a file"),
        (_file, "it is a link or a file"),
        (_open_to_others, "its mode is 0770 and not 0700"),
        pytest.param(
            _another_user_s,
            "it belongs to another user",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away"),
        ),
        (_linked_lock, "'lock' in it is a link or no file"),
        (_linked_rejects, "'rejects.jsonl' in it is a link or no file"),
        (_hard_linked_rejects, "'rejects.jsonl' in it is a link or no file"),
        (_folder_inside, "'whole' in it is a link or no file"),
    ],
)
def test_a_folder_that_a_run_would_not_make_is_refused(
    plant: object, reason: str, private: list[Path], scored_now: ScoreNow
) -> None:
    plant()  # type: ignore[operator]  # the functions above
    before = {path: path.lstat().st_mtime_ns for path in sorted(Path().rglob("*"))}
    with pytest.raises(TargetError, match=r"out\.parquet\.eventml: this is not the folder of") as raised:
        target()
    assert reason in str(raised.value)
    assert {path: path.lstat().st_mtime_ns for path in sorted(Path().rglob("*"))} == before
    assert [path.read_bytes() for path in private] == [b"secret"] * 3


@pytest.mark.parametrize("name", [".DS_Store", ".nfs000000000001", "Thumbs.db"])
def test_files_of_other_names_stop_no_run_and_are_left_alone(name: str) -> None:
    run = target()
    run.begin(RUN, None)
    run.write(chunk_of(1, [1]))
    run.close()
    (WORK / name).write_bytes(b"kept")
    resumed = target()
    assert resumed.begin(RUN, None).position == 1
    resumed.finish()
    resumed.close()
    assert [path.name for path in WORK.iterdir()] == [name]
    target().close()
    assert (WORK / name).read_bytes() == b"kept"


def test_a_file_system_that_keeps_no_permissions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(path: str, mode: int, *, dir_fd: int | None = None, make: Any = os.mkdir) -> None:
        make(path, mode, dir_fd=dir_fd)
        os.chmod(path, 0o710, dir_fd=dir_fd)  # noqa: S103 - as a share shows it

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(TargetError, match="this file system keeps no permissions"):
        target()
    assert not WORK.exists()


def test_closing_hides_no_error_of_the_run_behind_its_own() -> None:
    run = target()
    run.begin(RUN, None)
    (WORK / "manifest.json").unlink()
    (WORK / "manifest.json").mkdir()
    run.close()


def test_a_run_makes_a_folder_that_only_the_user_can_open() -> None:
    before = os.umask(0)
    try:
        run = target()
    finally:
        os.umask(before)
    run.begin(RUN, None)
    run.write(chunk_of(1, [1]))
    run.close()
    assert WORK.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("file", FILES)
def test_a_finished_file_has_the_usual_permissions(file: str) -> None:
    before = os.umask(0o027)
    try:
        run = target(file)
        run.begin(RUN, None)
        run.write(chunk_of(1, [1]))
        run.finish()
        run.close()
    finally:
        os.umask(before)
    assert Path(file).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "parts",
    [["../private/part-00000"], ["part-00000"], 1, -1, 10**18],
    ids=["path", "name", "1", "-1", "many"],
)
def test_a_planted_manifest_leads_to_no_other_file(
    parts: object, private: list[Path], scored_now: ScoreNow
) -> None:
    source = write("rides.parquet", rides(20))
    pq.write_table(pq.read_table(source), "private/part-00000")
    secret = private[0].read_bytes()
    WORK.mkdir(mode=0o700)
    found = Path(source).stat()
    run = RunIdentity(
        "array", "doubling", "v1", source, f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}", "ride_id"
    )
    manifest = {"run": run, "checkpoint": Checkpoint(20), "parts": parts, "reject_bytes": 0}
    (WORK / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    assert scored_now("array", source, "out.parquet").resumed == 0
    assert read("out.parquet").ids == [row["ride_id"] for row in rides(20)]
    assert private[0].read_bytes() == secret


@pytest.mark.parametrize("file", FILES)
def test_the_folder_above_may_be_exchanged_during_a_run(file: str, private: list[Path]) -> None:
    """Who may write to the folder above puts a link in the place of the work folder at any moment."""
    run = target(file)
    run.begin(RUN, None)
    run.write(chunk_of(1, [1]))
    work = Path(f"{file}.eventml")
    work.rename("taken")
    work.symlink_to("private", target_is_directory=True)
    run.write(chunk_of(2, [2]))
    run.finish()
    run.close()
    assert [row["id"] for row in read(file).rows] == [1, 2]
    assert [path.read_bytes() for path in private] == [b"secret"] * 3
    assert sorted(path.name for path in Path("private").iterdir()) == sorted(path.name for path in private)


@pytest.mark.parametrize("rejected", [True, False])
def test_links_put_in_the_place_of_the_rejects_are_replaced_and_not_followed(
    rejected: bool, private: list[Path]
) -> None:
    run = target()
    run.begin(RUN, None)
    Path("out.parquet.rejects.jsonl").symlink_to("private/letter.txt")
    chunk = chunk_of(1, [1])
    chunk.rejected = [RejectedRow("2", "ValueError", "no", "{}")] * rejected
    run.write(chunk)
    run.finish()
    run.close()
    assert not Path("out.parquet.rejects.jsonl").is_symlink()
    assert len(read("out.parquet").rejects) == rejected
    assert private[2].read_bytes() == b"secret"


@pytest.mark.parametrize("file", FILES)
def test_a_target_that_is_a_link_or_a_pipe_is_refused(file: str, scored_now: ScoreNow) -> None:
    source = write("rides.parquet", rides(3))
    scored_now("array", source, f"other{Path(file).suffix}")
    Path(file).symlink_to(f"other{Path(file).suffix}")
    with pytest.raises(TargetError, match="is a link or no regular file"):
        scored_now("array", source, file)
    Path(file).unlink()
    os.mkfifo(file)
    with pytest.raises(TargetError, match="is a link or no regular file"):
        scored_now("array", source, file)
