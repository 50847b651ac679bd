"""Apache Kafka's jars, fetched once by Maven into a cache, and the Java that runs them."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.process import NotInstalledError

if TYPE_CHECKING:
    from collections.abc import Iterator

POM: Final = Path(__file__).with_name("pom.xml")
CHECKSUMS: Final = Path(__file__).with_name("jars.sha256")
"""SHA-256 of each jar of the version in `pom.xml`, as `sha256sum` prints it."""

OLDEST_JAVA: Final = 17
FETCH_TIMEOUT: Final = 900.0
"""Seconds for Maven to fetch some 45 MB."""


def pinned_version() -> str:
    """The version of Kafka that `pom.xml` names."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", POM.read_text())
    if found is None:
        raise ValueError(f"{POM} names no kafka.version")
    return found[1]


def cache() -> Path:
    """Where fetched things are kept: $EVENTML_CACHE, else `eventml` in the user's cache folder."""
    if chosen := os.environ.get("EVENTML_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eventml"


def folder(version: str) -> Path:
    """Where a version's jars are kept. Another pom, or other checksums, are another folder."""
    digest = hashlib.sha256(POM.read_bytes() + CHECKSUMS.read_bytes()).hexdigest()
    return cache() / f"kafka-{version}-{digest[:8]}"


def class_path(version: str) -> str:
    """The class path of a broker; its jars are fetched if they are not in the cache.

    Processes that ask at once wait for the one that fetches.

    Raises:
        NotInstalledError: Maven is not there, or could not fetch them; or those of the version in `pom.xml`
            are not the ones in `CHECKSUMS`. Of other versions only Maven checks anything.
    """
    jars = folder(version)
    if not jars.is_dir():
        with locked(jars.with_name(f"{jars.name}.lock")):
            if not jars.is_dir():
                _fetch(version, jars)
    return f"{jars}/*"


def _fetch(version: str, jars: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise NotInstalledError(
            f"Kafka {version} is not in {jars} and there is no mvn on PATH: install Maven"
        )
    part = Path(tempfile.mkdtemp(prefix=f"{jars.name}.", suffix=".part", dir=jars.parent))
    try:
        _copy_dependencies(maven, version, part)
        if version == pinned_version():
            _check(part)
        part.chmod(0o755)
        part.rename(jars)  # whole or not at all
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _copy_dependencies(maven: str, version: str, into: Path) -> None:
    # The repositories and mirrors are the user's own; a checksum that does not match is an error (-C).
    command = [maven, "--batch-mode", "--quiet", "--strict-checksums", "--file", str(POM)]
    command += [f"-Dkafka.version={version}", f"-DoutputDirectory={into}", "dependency:copy-dependencies"]
    try:
        done = subprocess.run(  # noqa: S603 - Maven, with arguments of ours
            command, capture_output=True, text=True, timeout=FETCH_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise NotInstalledError(f"Maven did not fetch Kafka {version} within {FETCH_TIMEOUT:g} s") from exc
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[:5])
        raise NotInstalledError(f"Maven could not fetch Kafka {version}:\n{said}")


def _check(folder: Path) -> None:
    expected = {name: digest for digest, name in map(str.split, CHECKSUMS.read_text().splitlines())}
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.iterdir()}
    if wrong := sorted(name for name, _ in expected.items() ^ found.items()):
        raise NotInstalledError(
            f"Maven fetched other files than {CHECKSUMS} lists: {', '.join(dict.fromkeys(wrong))}. If "
            "pom.xml was changed, check them and list them anew with sha256sum; else trust none of them"
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, for which other processes wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when we end, however
        yield


def find_java() -> Path:
    """The Java in $JAVA_HOME, else on PATH.

    Raises:
        NotInstalledError: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if found is None or not Path(found).exists():
        raise NotInstalledError(f"there is no Java: install version {OLDEST_JAVA} or newer, or set JAVA_HOME")
    if java_version(java_details(found)) < OLDEST_JAVA:
        raise NotInstalledError(f"{found} is older than Java {OLDEST_JAVA}, which Kafka needs")
    return Path(found)


@functools.cache
def java_details(java: str | Path) -> str:
    """What `java -version` prints."""
    return subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr  # noqa: S603 - asks Java its version


def java_version(said: str) -> int:
    """The major version in what `java -version` prints; 8 and older call themselves 1.8; 0 if unknown."""
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else 0
