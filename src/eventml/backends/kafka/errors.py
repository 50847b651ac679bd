"""Translate aiokafka's exceptions into eventml's, at the edge.

What a user has to do decides the class: wait (`UnavailableError`), remove a reason that somebody has to look
at, after which repeating the call is right (`BackendError`), or install what this process lacks
(`MissingExtraError`): no repetition helps. A refused login is a `LoginError` while
the backend connects for the first time; see `AdminClient.start`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import errors as kafka
from aiokafka.errors import ConsumerStoppedError, IllegalOperation, KafkaError

from eventml.errors import BackendError, EventMLError, MissingExtraError, TopicNotFoundError, UnavailableError

CLIENT_ERRORS: Final = (KafkaError, ConsumerStoppedError, IllegalOperation, OSError, TimeoutError)
"""Exceptions that aiokafka raises on purpose. Its failed assertions and its bugs are not among them."""

LOGIN_ERRORS: Final = (
    kafka.AuthenticationFailedError,
    kafka.SaslAuthenticationFailed,
    kafka.UnsupportedSaslMechanismError,
    kafka.IllegalSaslStateError,
)
"""The brokers refused the user, password or token."""

AUTHORIZATION_ERRORS: Final = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
)
"""The brokers know the user, and it may not do this."""

_REFUSED: Final = (
    kafka.InvalidSessionTimeoutError,
    kafka.InvalidTransactionTimeout,
    kafka.InconsistentGroupProtocolError,
    kafka.InvalidGroupIdError,
    kafka.InvalidTopicError,
    kafka.IncompatibleBrokerVersion,
    kafka.UnsupportedVersionError,
)


def translate(exc: BaseException, action: str) -> EventMLError:
    """The error to raise in place of aiokafka's; one of eventml's own is returned unchanged.

    `action` is what failed, for the message: "joining group g".
    """
    if isinstance(exc, EventMLError):
        return exc
    reason = describe(exc)
    if isinstance(exc, kafka.UnsupportedCodecError):
        return MissingExtraError("kafka", f"{action}: decompressing the records ({exc})")
    if isinstance(exc, LOGIN_ERRORS):
        return BackendError(f"the brokers refused the login while {action}: {reason}; renew the credentials")
    if isinstance(exc, AUTHORIZATION_ERRORS):
        return BackendError(f"missing permission while {action}: {reason}; grant it with kafka-acls")
    if isinstance(exc, _REFUSED):
        return BackendError(f"the brokers refused a request while {action}: {reason}")
    return UnavailableError(f"Kafka failed while {action}: {reason}")


@asynccontextmanager
async def translated(action: str, within: float) -> AsyncIterator[None]:
    """Translate aiokafka's exceptions; `within` is a deadline in seconds."""
    try:
        async with asyncio.timeout(within):
            yield
    except TimeoutError as exc:
        raise UnavailableError(f"Kafka did not answer within {within:g} s while {action}") from exc
    except CLIENT_ERRORS as exc:
        raise translate(exc, action) from exc


def describe(exc: BaseException) -> str:
    """One line about an exception: its class, and its message as far as that says more than the class."""
    name = type(exc).__name__
    message = str(exc).rpartition(name)[2].lstrip(": ").strip() or getattr(exc, "description", "")
    return f"{name}: {message}" if message else name


def topic_not_found(topics: Collection[str]) -> TopicNotFoundError:
    """The error for missing topics, with the command that creates them."""
    return TopicNotFoundError(
        f"no such topic: {', '.join(topics)}. `eventml topics create MODULE:BUS` creates those of an app; "
        "publishing and subscribing create none"
    )


def repeatable(error: EventMLError) -> EventMLError:
    """The error that `receive` raises: one that passes, as a missing permission does, or a missing codec."""
    return error if isinstance(error, UnavailableError | MissingExtraError) else UnavailableError(str(error))
