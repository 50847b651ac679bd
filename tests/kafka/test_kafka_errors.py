"""aiokafka's exceptions, translated."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from aiokafka import errors as kafka

from eventml.backends.kafka.errors import describe, translate, translated
from eventml.errors import BackendError, EventMLError, TopicNotFoundError, UnavailableError


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (kafka.KafkaConnectionError("no route"), UnavailableError, "no route"),
        (kafka.NodeNotReadyError(), UnavailableError, "joining"),
        (ConnectionResetError(104, "reset"), UnavailableError, "reset"),
        (kafka.SaslAuthenticationFailed("wrong password"), BackendError, "refused the login"),
        (kafka.UnsupportedSaslMechanismError("use PLAIN"), BackendError, "use PLAIN"),
        (kafka.TopicAuthorizationFailedError("t"), BackendError, "kafka-acls"),
        (kafka.GroupAuthorizationFailedError("g"), BackendError, "kafka-acls"),
        (kafka.ClusterAuthorizationFailedError(), BackendError, "kafka-acls"),
        (kafka.TransactionalIdAuthorizationFailed(), BackendError, "kafka-acls"),
        (kafka.InvalidSessionTimeoutError(), BackendError, "refused"),
        (TopicNotFoundError("as it was"), TopicNotFoundError, "as it was"),
    ],
)
def test_an_exception_is_translated(raised: Exception, expected: type[EventMLError], message: str) -> None:
    found = translate(raised, "joining")
    assert type(found) is expected
    assert message in str(found)


@pytest.mark.anyio
async def test_the_cause_is_kept_and_a_deadline_is_named() -> None:
    cause = kafka.RequestTimedOutError()
    with pytest.raises(UnavailableError) as error:
        async with translated("asking", 3.0):
            raise cause
    assert error.value.__cause__ is cause
    with pytest.raises(UnavailableError, match="s while asking"):
        async with translated("asking", 0.01):
            await asyncio.sleep(10)


@pytest.mark.anyio
async def test_other_exceptions_are_not_translated() -> None:
    with pytest.raises(ZeroDivisionError):
        async with translated("asking", 3.0):
            raise ZeroDivisionError


def test_a_description_repeats_nothing() -> None:
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
