"""aiokafka's exceptions, as ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from aiokafka import errors as kafka
from aiokafka.errors import ConsumerStoppedError, IllegalOperation, KafkaError

from eventml.errors import BackendError, ConfigError, EventMLError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

FOREIGN: Final = (KafkaError, ConsumerStoppedError, IllegalOperation, OSError, TimeoutError)
"""What aiokafka raises. Its asserts and its bugs are not among them."""

_LOGIN: Final = (
    kafka.AuthenticationFailedError,
    kafka.SaslAuthenticationFailed,
    kafka.UnsupportedSaslMechanismError,
    kafka.IllegalSaslStateError,
)
_FORBIDDEN: Final = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
)
_IMPOSSIBLE: Final = (
    kafka.InvalidSessionTimeoutError,
    kafka.InvalidTransactionTimeout,
    kafka.InconsistentGroupProtocolError,
    kafka.InvalidGroupIdError,
    kafka.InvalidTopicError,
    kafka.IncompatibleBrokerVersion,
    kafka.UnsupportedVersionError,
)


def ours(exc: BaseException, what: str) -> EventMLError:
    """The error to raise for a foreign one. `what` says what was being done."""
    if isinstance(exc, EventMLError):
        return exc
    said = describe(exc)
    if isinstance(exc, _LOGIN):
        return ConfigError(f"backend.url: the brokers refused the login, {what}: {said}")
    if isinstance(exc, _FORBIDDEN):
        return BackendError(f"not allowed, {what}: {said}; grant it with kafka-acls")
    if isinstance(exc, _IMPOSSIBLE):
        return BackendError(f"refused, {what}: {said}")
    return UnavailableError(f"Kafka failed us, {what}: {said}")


@contextmanager
def translating(what: str, timeout: float | None = None) -> Iterator[None]:
    """Raise ours in place of what aiokafka raises.

    Args:
        what: What is being done, for the message: "joining group g".
        timeout: The deadline that a TimeoutError stands for, in seconds.
    """
    try:
        yield
    except TimeoutError as exc:
        within = "in time" if timeout is None else f"within {timeout:g} s"
        raise UnavailableError(f"Kafka did not answer {within}, {what}") from exc
    except FOREIGN as exc:
        raise ours(exc, what) from exc


def describe(exc: BaseException) -> str:
    """One line on a foreign exception: its kind, and what it says beyond that."""
    kind = type(exc).__name__
    said = str(exc).rpartition(kind)[2].lstrip(": ").strip() or getattr(exc, "description", "")
    return f"{kind}: {said}" if said else kind
