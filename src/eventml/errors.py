"""All errors that eventml raises, in one hierarchy.

Derived from EventMLError, each with the classes derived from it:

    ConfigError: UnknownBackendError, MissingExtraError, AppNotFoundError, UnsupportedError
    ModelError: ModelNotFoundError, ModelTamperedError, UntrustedModelError
    RequestError: PredictionError, RequestTimeoutError (also a TimeoutError)
    JobError: SourceError, TargetError (JobRunningError)
    BackendError: UnavailableError, PublishError (FullError), TopicNotFoundError,
        LoginError (also a ConfigError)
    RegistrationError, NotOpenError, CircuitBreakerError, DecodeError, OutputError, HandlerTimeoutError,
    HandlerExitError, StaleError, CrashLoopError, Reject

Exceptions of other libraries (redis-py, aiokafka, OSError) are translated where they occur; the
original is the `__cause__`. No message contains a secret: URLs are shown without their password.
"""

from __future__ import annotations

from collections.abc import Mapping


class EventMLError(Exception):
    """The base class of all errors that eventml raises."""


class ConfigError(EventMLError):
    """A setting is unknown, has the wrong type or an impossible value. The message starts with its path."""


class UnknownBackendError(ConfigError):
    """No backend is registered for the URL's scheme. The message lists the registered schemes."""


class MissingExtraError(ConfigError):
    """An optional dependency is not installed. The message contains the command that installs it.

    Args:
        extra: Name of the extra, as in `eventml[redis]`; also an attribute.
        feature: What needs the extra; the subject of the message.
    """

    def __init__(self, extra: str, feature: str) -> None:
        self.extra = extra
        super().__init__(
            f"{feature} needs the extra {extra!r}, which is not installed: pip install 'eventml[{extra}]'"
        )


class AppNotFoundError(ConfigError):
    """`MODULE:NAME`, or `only`, names no module, bus or handler. The message says what to write instead."""


class UnsupportedError(ConfigError):
    """A handler requires what its backend cannot provide. The message says what to change."""


class RegistrationError(EventMLError):
    """A handler's signature and its options do not fit together. The message says how to fix it."""


class NotOpenError(EventMLError):
    """The bus is used outside `async with bus`, or a producer outside its `with`."""


class ModelError(EventMLError):
    """A model cannot be loaded."""


class ModelNotFoundError(ModelError):
    """There is no model file at the path."""


class ModelTamperedError(ModelError):
    """The model file's sha256 differs from the expected one."""


class UntrustedModelError(ModelError):
    """Loading the model would run code, or create types, that are not trusted.

    Attributes:
        types: Full names of the untrusted types, if the file's format lists them.
    """

    def __init__(self, message: str, types: tuple[str, ...] = ()) -> None:
        self.types = types
        super().__init__(message)


class DecodeError(EventMLError):
    """A record's value does not fit the handler's event type. It becomes a dead letter, without retries."""


class OutputError(EventMLError):
    """What a handler or a producer gave cannot be published.

    A handler's outputs do not fit its inputs (wrong length, wrong type, a number that is not finite), or an
    event, its key, its id or its headers cannot be encoded.
    """


class HandlerTimeoutError(EventMLError):
    """A handler ran longer than its `timeout`, and was abandoned."""


class HandlerExitError(EventMLError):
    """A handler raised SystemExit, or a cancellation that the runtime had not requested."""


class CircuitBreakerError(EventMLError):
    """A handler has stopped, as most of its events fail, while its worker was to run until it is idle."""


class StaleError(EventMLError):
    """An event was older than its handler's `max_age` when it was about to be handled."""


class CrashLoopError(EventMLError):
    """An event was delivered too often and never completed: it may kill its worker (poison event)."""


class Reject(EventMLError):  # noqa: N818 - handlers raise it on purpose: `raise Reject("no zone")`
    """The handler rejects an event, which becomes a dead letter at once, without retries.

    A handler of single events raises or returns it. A handler of batches returns it in the place of the
    event's output. If it raises it, it says that its batch contains such an event; bisecting the batch then
    finds it.
    """


class RequestError(EventMLError):
    """A request over the bus got no prediction."""


class PredictionError(RequestError):
    """The predictor failed on the requested event, which is now in its dead-letter topic.

    Attributes:
        exception: Class name of the failure.
        reason: In one line, the class and message of a `Reject`, or how the event fails its type. Of every
            other failure it is the class only: its message may hold the event, and is in the dead letter.
    """

    def __init__(self, message: str, *, exception: str = "", reason: str = "") -> None:
        self.exception = exception
        self.reason = reason
        super().__init__(message)


class RequestTimeoutError(RequestError, TimeoutError):
    """No reply to a request arrived in time. A later reply is dropped."""


class JobError(EventMLError):
    """A batch job cannot continue. Its finished part is kept, and the next run resumes there."""


class SourceError(JobError):
    """The source of a batch job cannot be read, or lacks columns. The message names it."""


class TargetError(JobError):
    """The target of a batch job cannot be written, or has other columns. The message names it."""


class JobRunningError(TargetError):
    """Another run of the job is under way and has its target locked; nothing was changed."""


class BackendError(EventMLError):
    """The broker, or the connection to it, failed."""


class UnavailableError(BackendError):
    """The broker cannot be reached, or did not answer in time. Retrying later may succeed."""


class LoginError(ConfigError, BackendError):
    """The broker refuses the user or the password as the backend opens.

    A wrong setting at the first start; where the same login was accepted before, it may be again.
    """


class PublishError(BackendError):
    """Records were not published.

    Attributes:
        failed: For each record or completion that was refused for good, its position in the call
            and the reason; the others were published. Empty if the outcome of single records is unknown.
    """

    def __init__(self, message: str, failed: Mapping[int, str] | None = None) -> None:
        self.failed = dict(failed or {})
        super().__init__(message)


class FullError(PublishError):
    """The topic is full, and no room became free in time. Nothing of the call was published."""


class TopicNotFoundError(BackendError):
    """The topic does not exist, and is not created implicitly. The message says how to create it."""
