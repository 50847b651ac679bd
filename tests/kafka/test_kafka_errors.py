"""What aiokafka raises, as eventml says it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from aiokafka import errors as kafka

from eventml.backends.kafka.faults import describe, ours, translating
from eventml.errors import BackendError, ConfigError, EventMLError, TopicNotFoundError, UnavailableError


@pytest.mark.parametrize(
    ("raised", "wanted", "said"),
    [
        (kafka.KafkaConnectionError("no route"), UnavailableError, "no route"),
        (kafka.NodeNotReadyError(), UnavailableError, "joining"),
        (ConnectionResetError(104, "reset"), UnavailableError, "reset"),
        (kafka.SaslAuthenticationFailed("wrong password"), ConfigError, "refused the login"),
        (kafka.UnsupportedSaslMechanismError("use PLAIN"), ConfigError, "use PLAIN"),
        (kafka.GroupAuthorizationFailedError("g"), BackendError, "not allowed"),
        (kafka.InvalidSessionTimeoutError(), BackendError, "refused"),
        (TopicNotFoundError("as it was"), TopicNotFoundError, "as it was"),
    ],
)
def test_an_exception_becomes_ours(raised: Exception, wanted: type[EventMLError], said: str) -> None:
    found = ours(raised, "joining")
    assert type(found) is wanted
    assert said in str(found)


def test_the_cause_is_kept_and_a_deadline_is_named() -> None:
    cause = kafka.RequestTimedOutError()
    with pytest.raises(UnavailableError) as error, translating("asking"):
        raise cause
    assert error.value.__cause__ is cause
    with pytest.raises(UnavailableError, match="within 3 s, asking"), translating("asking", 3.0):
        raise TimeoutError


def test_a_bug_is_not_called_an_outage() -> None:
    with pytest.raises(ZeroDivisionError), translating("asking"):
        raise ZeroDivisionError


def test_a_description_says_each_thing_once() -> None:
    assert describe(kafka.KafkaConnectionError("no route")) == "KafkaConnectionError: no route"
    assert describe(kafka.OutOfOrderSequenceNumber()) == (
        "OutOfOrderSequenceNumber: The broker received an out of order sequence number"
    )
    assert describe(TimeoutError()) == "TimeoutError"


def test_without_aiokafka_the_message_says_what_to_install() -> None:
    script = "import sys; sys.modules['aiokafka'] = None; import eventml.backends.kafka"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603 - a line of ours
    assert "MissingExtraError" in done.stderr
    assert "pip install 'eventml[kafka]'" in done.stderr
