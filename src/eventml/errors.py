"""Every error that eventml raises, in one tree.

    EventMLError
    ├── ConfigError                a setting is unknown, ill-typed or impossible; names its path
    │   ├── UnknownBackendError    no backend is registered for the URL's scheme
    │   ├── MissingExtraError      an optional dependency is not installed; says what to install
    │   ├── AppNotFoundError       MODULE:NAME names no module, bus or predictor
    │   └── UnsupportedError       a handler asks for what its backend cannot give
    ├── RegistrationError          a handler's signature or options do not fit together
    ├── NotOpenError               the bus is used outside `async with bus`
    ├── ModelError                 a model cannot be loaded
    │   ├── ModelNotFoundError     no file there
    │   ├── ModelTamperedError     the file's sha256 is not the one expected
    │   └── UntrustedModelError    loading it would run code that nobody has trusted
    ├── DecodeError                a record's value does not fit the handler's event type
    ├── OutputError                what a handler returned does not fit its input or its type
    ├── HandlerTimeoutError        a handler ran past its `timeout`
    ├── HandlerExitError           a handler raised what would have ended its worker
    ├── StaleError                 an event was older than its handler's `max_age`
    ├── CrashLoopError             an event was delivered too often and never finished
    ├── Reject                     raised by a handler: set this event aside
    ├── RequestError               a request over the bus was not answered
    │   ├── PredictionError        the predictor failed on it; says why
    │   └── RequestTimeoutError    no answer in time; a TimeoutError too
    ├── JobError                   a batch job cannot go on; what it has finished is kept
    │   ├── SourceError            its source cannot be read, or lacks columns
    │   └── TargetError            its target cannot be written, or has other columns
    └── BackendError               the broker, or our way to it
        ├── UnavailableError       cannot be reached, or does not answer in time
        ├── PublishError           records were not published; `failed` says which
        │   └── FullError          the topic is at its bound and nobody makes room
        └── TopicNotFoundError     the topic does not exist and is not created by accident

Foreign exceptions (redis-py's, aiokafka's, OSError) become one of these at the edge, with the
original as `__cause__`. No message contains a secret: URLs are shown without their password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class EventMLError(Exception):
    """The root: catch this to catch everything that eventml itself raises."""


class ConfigError(EventMLError):
    """A setting is unknown, ill-typed or impossible. The message starts with its path."""


class UnknownBackendError(ConfigError):
    """No backend is registered for the URL's scheme. The message lists those that are."""


class MissingExtraError(ConfigError):
    """An optional dependency is not installed. The message holds the command that installs it.

    Args:
        extra: The name of eventml's extra, as in `eventml[redis]`.
        wanted_for: What could not be done without it.
    """

    def __init__(self, extra: str, wanted_for: str) -> None:
        self.extra = extra
        super().__init__(
            f"{wanted_for} needs the extra {extra!r}, which is not installed: pip install 'eventml[{extra}]'"
        )


class AppNotFoundError(ConfigError):
    """`MODULE:NAME` names no module, bus or predictor. The message says what to write instead."""


class UnsupportedError(ConfigError):
    """A handler asks for what its backend cannot give. The message says what to do instead."""


class RegistrationError(EventMLError):
    """A handler's signature or its options do not fit together."""


class NotOpenError(EventMLError):
    """The bus is used outside `async with bus`."""


class ModelError(EventMLError):
    """A model cannot be loaded."""


class ModelNotFoundError(ModelError):
    """There is no model at that path."""


class ModelTamperedError(ModelError):
    """The artefact's sha256 is not the one that was expected."""


class UntrustedModelError(ModelError):
    """Loading the artefact would run code, or make types, that nobody has trusted.

    Attributes:
        types: The names of the untrusted types, where the format lists them.
    """

    def __init__(self, message: str, types: tuple[str, ...] = ()) -> None:
        self.types = types
        super().__init__(message)


class DecodeError(EventMLError):
    """A record's value does not fit the handler's event type. It goes to the dead letters at once."""


class OutputError(EventMLError):
    """What a handler returned does not fit its input: a wrong length, type, or a number not finite."""


class HandlerTimeoutError(EventMLError):
    """A handler ran past its `timeout` and was abandoned."""


class HandlerExitError(EventMLError):
    """A handler raised SystemExit, or a cancellation that nobody had asked for."""


class StaleError(EventMLError):
    """An event was older than its handler's `max_age` when its turn came."""


class CrashLoopError(EventMLError):
    """An event was delivered too often and never finished: it may be what killed its workers."""


class Reject(EventMLError):  # noqa: N818 - a verdict that handlers raise, not an error of ours
    """Raise this in a handler to set an event aside at once, without a retry.

    From a handler of single events it rejects that event. From a handler of batches it says that
    the batch holds such an event, which bisecting then finds.
    """


class RequestError(EventMLError):
    """A request over the bus was not answered."""


class PredictionError(RequestError):
    """The predictor failed on what was asked, and has set it aside in its dead letters.

    Attributes:
        exception: The class of the failure, by its name.
        reason: What it said, in one line.
    """

    def __init__(self, message: str, *, exception: str = "", reason: str = "") -> None:
        self.exception = exception
        self.reason = reason
        super().__init__(message)


class RequestTimeoutError(RequestError, TimeoutError):
    """Nobody answered a request in time. It may yet be answered: that answer is dropped."""


class JobError(EventMLError):
    """A batch job cannot go on. What it has finished is kept, and the next run goes on from there."""


class SourceError(JobError):
    """The source of a batch job cannot be read, or lacks columns. The message names it."""


class TargetError(JobError):
    """The target of a batch job cannot be written, or has other columns. The message names it."""


class BackendError(EventMLError):
    """The broker, or our way to it, failed."""


class UnavailableError(BackendError):
    """The broker cannot be reached, or did not answer in time. Trying again later is right."""


class PublishError(BackendError):
    """Records were not published.

    Attributes:
        failed: For each record or completion that was refused for good, its position in the call
            and why; the others were published. Empty when nothing can be said of any one of them.
    """

    def __init__(self, message: str, failed: Mapping[int, str] | None = None) -> None:
        self.failed = dict(failed or {})
        super().__init__(message)


class FullError(PublishError):
    """The topic is at its bound and nobody made room in time. Nothing of the call was published."""


class TopicNotFoundError(BackendError):
    """The topic does not exist, and is not created by accident. The message says how to create it."""
