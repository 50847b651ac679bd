"""Invalid settings, and their error messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventml.config import load
from eventml.errors import ConfigError
from eventml.times import START_TEXTS

if TYPE_CHECKING:
    from pathlib import Path


def refusal(**sources: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(**{"environ": {}, **sources})
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            "[consumer.duration]\nmax_bacth = 1",
            "consumer.duration.max_bacth: unknown, did you mean max_batch?",
        ),
        (
            '[consumer.duration]\nmax_batch = "many"',
            'consumer.duration.max_batch: expected int >= 1, got "many"',
        ),
        ("[consumer.duration]\nmax_batch = 0", "consumer.duration.max_batch: expected int >= 1, got 0"),
        ("[consumer.duration]\nmax_batch = 2.5", "consumer.duration.max_batch: expected int >= 1, got 2.5"),
        ("[consumer.duration]\nmax_batch = true", "consumer.duration.max_batch: expected int >= 1, got true"),
        ("[consumer.duration]\nbackoff = -1", "consumer.duration.backoff: expected float >= 0, got -1"),
        ("[consumer.duration]\ntimeout = 0", "consumer.duration.timeout: expected float > 0, got 0"),
        (
            "[consumer.duration]\ntimeout = inf",
            "consumer.duration.timeout: expected a finite float > 0, got inf",
        ),
        ("[consumer.duration]\nordered = 1", "consumer.duration.ordered: expected true or false, got 1"),
        ("[consumer.duration]\nretries = -1", "consumer.duration.retries: expected int >= 0, got -1"),
        (
            "[consumer.duration]\nmax_backoff = nan",
            "consumer.duration.max_backoff: expected float >= 0, got nan",
        ),
        ("[consumer.duration]\nmodel = 3", "consumer.duration.model: expected text, not empty, got 3"),
        (
            '[consumer.duration]\nmodel_sha256 = "e3b0"',
            'consumer.duration.model_sha256: expected 64 hex digits, got "e3b0"',
        ),
        ('[consumer.duration]\ngroup = ""', 'consumer.duration.group: expected text, not empty, got ""'),
        *(
            (
                f"[consumer.duration]\nstart = {start}",
                f"consumer.duration.start: expected {START_TEXTS}, got {shown}",
            )
            for start, shown in {
                '"begin"': '"begin"',
                '"2026-01-05"': '"2026-01-05"',
                '"-PT1H"': '"-PT1H"',
                "2026-01-05T08:00:00": "2026-01-05 08:00:00",
                "2099-01-05T08:00:00Z": "2099-01-05 08:00:00+00:00",
                "3600": "3600",
            }.items()
        ),
        ("[consumer]\nduration = 3", "consumer.duration: expected a table, got 3"),
        ("consumer = []", "consumer: expected a table, got an array"),
        (
            '[topic."rides.started"]\npartitions = 0',
            'topic."rides.started".partitions: expected int >= 1, got 0',
        ),
        (
            '[topic."rides.started"]\nreplication = 0',
            'topic."rides.started".replication: expected int >= 1, got 0',
        ),
        (
            '[topic."rides.started"]\nretention = 0',
            'topic."rides.started".retention: expected float > 0, got 0',
        ),
        (
            "[topic.rides.started]\npartitions = 3",
            'topic.rides.started: unknown; a name with dots is quoted: [topic."rides.started"]',
        ),
        ("drain = -1", "drain: expected float >= 0, got -1"),
        ("drian = 1", "drian: unknown, did you mean drain?"),
        ("[consumers.duration]\nmax_batch = 1", "consumers: unknown, did you mean consumer?"),
        ("backend = 3", "backend: expected a URL or a table, got 3"),
        ("[backend]\nurl = 3", "backend.url: expected a URL, got 3"),
        (
            'backend = "memory"',
            'backend.url: expected a URL such as memory:// or redis://localhost:6379, got "memory"',
        ),
        ("[backend]\npartishons = 3", "backend.partishons: unknown, did you mean partitions?"),
        ("[backend]\nzzz = 3", "backend.zzz: unknown, expected one of partitions, retention"),
        ('[backend]\npartitions = "3"', 'backend.partitions: expected int >= 1, got "3"'),
        (
            '[backend]\nurl = "redis://h"\nhosts = ["a", 1]',
            "backend.hosts: Expected `str`, got `int` - at `$[1]`",
        ),
    ],
)
def test_a_file_is_refused_with_path_and_source(tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "eventml.toml").write_text(toml)
    assert refusal() == [f"{message} (from eventml.toml)"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "EVENTML_CONSUMER_TIP_RETRIES",
            "many",
            'consumer.tip.retries: expected int >= 0, got "many" (from EVENTML_CONSUMER_TIP_RETRIES)',
        ),
        (
            "EVENTML_CONSUMER_TIP_RETRIES",
            "null",
            'consumer.tip.retries: expected int >= 0, got "null" (from EVENTML_CONSUMER_TIP_RETRIES)',
        ),
        ("EVENTML_DRAIN", "inf", 'drain: expected a finite float >= 0, got "inf" (from EVENTML_DRAIN)'),
        (
            "EVENTML_BACKEND_PARTISHONS",
            "1",
            "backend.partishons: unknown, did you mean partitions? (from EVENTML_BACKEND_PARTISHONS)",
        ),
        (
            "EVENTML_CONSUMER_DURATION_MAX_BACTH",
            "1",
            "EVENTML_CONSUMER_DURATION_MAX_BACTH: unknown, did you mean EVENTML_CONSUMER_DURATION_MAX_BATCH?",
        ),
        ("EVENTML_DRIAN", "1", "EVENTML_DRIAN: unknown, did you mean EVENTML_DRAIN?"),
        ("EVENTML_CACHEE", "1", "EVENTML_CACHEE: unknown, did you mean EVENTML_CACHE?"),
        (
            "EVENTML_CONSUMERS_TIP_GROUP",
            "1",
            "EVENTML_CONSUMERS_TIP_GROUP: unknown, did you mean EVENTML_CONSUMER_TIP_GROUP?",
        ),
        (
            "EVENTML_ZZZ",
            "1",
            "EVENTML_ZZZ: unknown, no setting has that name, or no app or file names its handler",
        ),
        (
            "EVENTML_ZZZ",
            "",
            "EVENTML_ZZZ: unknown, no setting has that name, or no app or file names its handler",
        ),
    ],
)
def test_a_variable_is_refused_by_its_name(name: str, value: str, message: str) -> None:
    assert refusal(environ={name: value}, known_handlers=["duration", "tip"]) == [message]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "redis://h?leese=1",
            "backend.leese: unknown, did you mean lease? (from the URL of the command line)",
        ),
        (
            "redis://h?Lease=1",
            "backend.Lease: unknown, did you mean lease? (from the URL of the command line)",
        ),
        ("redis://h?lease", 'backend.lease: expected float > 0, got "" (from the URL of the command line)'),
        (
            "redis://h?lease=x",
            'backend.lease: expected float > 0, got "x" (from the URL of the command line)',
        ),
        (
            "redis://:pa/ss@h",
            (
                'backend.url: a "/", "?", "#" or "@" in a password or parameter '
                "is written %2F, %3F, %23 or %40 (from the command line)"
            ),
        ),
        (
            "redis://:pw@[::1",
            "backend.url: not a valid URL: check its brackets and special characters (from the command line)",
        ),
        ("memory://?retention=3", "backend: retention leaves no room for the partitions"),
        ("needy://h", "backend.api-key: not set, but required by needy://h: set EVENTML_BACKEND_API_KEY"),
    ],
)
def test_a_url_is_refused_for_its_query(url: str, message: str) -> None:
    assert refusal(overrides={"backend": url}) == [message]


def test_all_problems_of_all_sources_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text("drain = -1\n[consumer.a]\nretries = -1\n")
    lines = refusal(
        environ={"EVENTML_ZZZ": "1", "EVENTML_DRAIN": "2", "EVENTML_BACKEND_X": "1"}, overrides={"nope": 1}
    )
    assert [line.split(":")[0] for line in lines] == [
        "EVENTML_ZZZ",
        "nope",
        "drain",  # wrong in the file, even though the variable would win
        "consumer.a.retries",
        "backend.x",
    ]


def test_a_handler_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text("[consumer.duratoin]\n[consumer.tip]\nretries = 1\n")
    assert refusal(known_handlers=["duration", "tip"]) == [
        "consumer.duratoin: unknown, did you mean duration? (from eventml.toml)"
    ]
    assert set(load(environ={}).consumer) == {"tip"}  # where it is not known which there are


def test_a_url_of_the_wrong_type_is_refused_in_a_source_that_another_overrides(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text("[backend]\nurl = 5")
    assert refusal(environ={"EVENTML_BACKEND": "memory://"}) == [
        "backend.url: expected a URL, got 5 (from eventml.toml)"
    ]
