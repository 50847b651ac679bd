"""The settings and their limits, and checking one value of a source. Durations are seconds, as floats."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, inspect, structs

from eventml import handler_options
from eventml.config.urls import HIDDEN, InvalidValueError, redact
from eventml.errors import AppNotFoundError
from eventml.handler_options import AtLeastOne, Canary, PositiveSeconds, Seconds, Text, configurable_options
from eventml.times import START_TEXTS, StartOption

PREFIX: Final = "EVENTML_"  # of the environment variables that are settings
URL: Final = ("backend", "url")  # path of the backend's URL

SHA256: Final = "^[0-9a-fA-F]{64}$"

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SHOWN: Final = 80  # characters of a value in a message
_WORDS: Final = {"bool": "true or false", "list": "an array", "dict": "a table", "struct": "a table"}
_BOUNDS: Final = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class TopicSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings in `[topic."<name>"]`, for creating the topic. None means the backend's default.

    Attributes:
        partitions: Number of partitions to create the topic with.
        replication: Number of replicas to create the topic with.
        retention: How long records are kept, in seconds.
    """

    partitions: AtLeastOne | None = None
    replication: AtLeastOne | None = None
    retention: PositiveSeconds | None = None


class WebSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings in `[web]`, of the web service. Limits count for each worker by itself.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 chooses a free one.
        max_body: Maximum size of a request's body, in bytes.
        max_events: Maximum number of events in one request.
        max_requests: Maximum number of requests in flight.
        max_waiting: Maximum number of events that wait for one predictor.
        timeout: Time limit for answering a request, in seconds.
        receive_timeout: Time limit for receiving a request's headers, and again for its body, in seconds.
        send_timeout: How long a client may read nothing of what it is sent, in seconds.
        keep_alive: How long a connection stays open without a request, in seconds.
        extra_topics: Topics to which clients may publish, beside those that handlers read and none writes.
    """

    host: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    max_body: AtLeastOne = 1_048_576
    max_events: AtLeastOne = 1000
    max_requests: AtLeastOne = 1000
    max_waiting: AtLeastOne = 10_000
    timeout: PositiveSeconds = 30.0
    receive_timeout: PositiveSeconds = 10.0
    send_timeout: PositiveSeconds = 30.0
    keep_alive: PositiveSeconds = 30.0
    extra_topics: list[Text] = []


class ConsoleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings in `[console]`, of the pages on the operations port.

    Attributes:
        history: SQLite file that keeps the history of the numbers over restarts.
        hidden_headers: Names of headers whose values are not shown; `*` stands for any text.
        doctor: Files that `eventml doctor --json` has written, to show beside the models.
    """

    history: Text | None = None
    doctor: list[Text] = []
    hidden_headers: list[Text] = msgspec.field(
        default_factory=lambda: ["*authorization*", "*cookie*", "*password*", "*secret*", "*token*"]
    )


class ChallengerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings in `[consumer.<predictor>.challenger.<name>]`.

    Attributes:
        model: Path of the challenger's model.
        model_sha256: Digest that this file must have.
        model_compile: Compiler for the model.
    """

    model: Text
    model_sha256: Annotated[str, Meta(pattern=SHA256)] | None = None
    model_compile: Literal["onnx"] | None = None


class CanarySettings(Canary, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings in `[consumer.<predictor>.canary]`: those of `Canary`, and `model_sha256`, its digest."""

    model: Text
    model_sha256: Annotated[str, Meta(pattern=SHA256)] | None = None


class BackendSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The chosen backend. Its repr hides the password and all texts in options; `url` itself contains it.

    Attributes:
        url: The backend's URL without its query, which has become part of `options`.
        options: An instance of the backend module's own `Settings`, validated.
    """

    url: str = "memory://"
    options: msgspec.Struct

    @property
    def scheme(self) -> str:
        """The URL's scheme in lower case, by which `find_backend` finds the backend module."""
        return self.url.partition("://")[0].lower()

    def __repr__(self) -> str:
        return f"BackendSettings(url={redact(self.url)!r}, options={self._safe_options()})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # rich would otherwise use msgspec's fields, password included.
        return [("url", redact(self.url)), ("options", self._safe_options())]

    def _safe_options(self) -> str:
        def shown(field: structs.FieldInfo) -> str:
            value = getattr(self.options, field.name)
            return HIDDEN if value and _may_be_secret(field.type) else repr(value)

        fields = ", ".join(f"{field.name}={shown(field)}" for field in structs.fields(self.options))
        return f"{type(self.options).__name__}({fields})"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a process.

    Attributes:
        backend: The backend.
        consumer: By handler name, for predictors and consumers: the options to replace in `HandlerOptions`,
            `model`, the path of a model to use in place of the decorator's, `model_sha256`, the digest that
            this file must have, `model_compile`, a compiler for the model, `challenger`, models that predict
            beside it, by name, and `canary`, one that answers for a share of the keys.
        topic: By topic name.
        web: The web service.
        console: The pages on the operations port.
        drain: How long a stopping worker has to finish what is in flight, in seconds.
        tracing: Whether to trace with OpenTelemetry. None means: if the app has configured OpenTelemetry.
    """

    backend: BackendSettings
    consumer: dict[str, dict[str, Any]] = {}
    topic: dict[str, TopicSettings] = {}
    web: WebSettings = WebSettings()
    console: ConsoleSettings = ConsoleSettings()
    drain: Seconds = 30.0
    tracing: bool | None = None


def _types(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in structs.fields(struct)}


SECTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "consumer": {
        **configurable_options(),
        "model": Text,
        "model_sha256": Annotated[str, Meta(pattern=SHA256)],
        "model_compile": Literal["onnx"],
        "challenger": dict[Text, ChallengerSettings],
        "canary": CanarySettings,
    },
    "topic": _types(TopicSettings),
    "web": _types(WebSettings),
    "console": _types(ConsoleSettings),
    "": {name: _types(Settings)[name] for name in ("drain", "tracing")},
}
"""The settings of each section but `[backend]`, with their types. `consumer` and `topic` are by name, and ""
has the settings that stand alone."""


class Entry(msgspec.Struct, frozen=True):
    """A setting as one source gives it, not yet checked.

    Attributes:
        path: Path of the setting, such as `("consumer", "duration", "max_batch")`.
        value: Value in the source.
        source: Name of the file or variable, for messages.
        text: Whether the source has only text, which is converted to the field's type.
        secret: Whether to hide the value in messages, whatever the setting.
        expanded: Whether variables have been replaced already: a `${` in the value is literal.
    """

    path: tuple[str, ...]
    value: object
    source: str
    text: bool = False
    secret: bool = False
    expanded: bool = False

    @property
    def shown(self) -> str:
        """The value as shown in a message, hidden if it is a secret."""
        return HIDDEN if self.secret else show(self.value)

    def problem(self, reason: str) -> str:
        """One line of an error message: the path, the reason and the source."""
        return f"{dotted(self.path)}: {reason} (from {self.source})"


def convert(entry: Entry, name: str, types: Mapping[str, Any]) -> Any:
    """The entry's value as the type of the setting `name`. An optional setting cannot be set to None.

    Raises:
        InvalidValueError: There is no such setting, or the value has another type or is out of bounds.
    """
    if name not in types:
        raise InvalidValueError(unknown(name, types))
    detail, value, nested = "", None, isinstance(entry.value, dict | list)
    if entry.path[0] == "backend" and not nested and _may_be_secret(types[name]):
        entry = structs.replace(entry, secret=True)
    try:
        value = handler_options.convert_option(entry.value, types[name], strict=not entry.text)
    except ValueError as exc:
        # For a nested value msgspec's message says where in it the wrong part is. "Invalid ..." shows it.
        if nested and str(exc).startswith(("Expected", "Object")):
            detail = str(exc)
    if value is None:
        wanted = expected(types[name])
        what = "" if detail and wanted == entry.shown else f"expected {wanted}, got {entry.shown}: "
        raise InvalidValueError(f"{what}{detail}".removesuffix(": "))
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValueError(f"expected a finite {expected(types[name])}, got {entry.shown}")
    return value


def dotted(path: tuple[str, ...]) -> str:
    """The path as TOML writes it: `topic."rides.started".codec`."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else json.dumps(part) for part in path)


def variable(path: tuple[str, ...]) -> str:
    """Name of the environment variable that sets the setting at that path."""
    return PREFIX + "_".join(re.sub(r"\W", "_", part.upper()) for part in path)


def unknown(name: str, known: Iterable[str]) -> str:
    """Reason for refusing an unknown name, with the most similar known name."""
    names = sorted(known)
    expected_names = f", expected one of {', '.join(names)}" if names else ""
    return f"unknown{did_you_mean(name, names) or expected_names}"


def did_you_mean(name: str, known: Iterable[str], *, similar: float = 0.6) -> str:
    """The end of a message that suggests the most similar known name; empty if none is similar enough."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=similar)
    return f", did you mean {close[0]}?" if close else ""


def check_known(named: Iterable[str], known: Collection[str], kind: str = "handler") -> None:
    """Refuse a name that is none of the known ones. Raises AppNotFoundError, with the most similar one."""
    for name in named:
        if name not in known:
            close = did_you_mean(name, known).replace(",", ";", 1)
            listed = ", ".join(known) or "none"
            raise AppNotFoundError(f"no {kind} is named {name!r}; there are: {listed}{close}")


def show(value: object) -> str:
    """A TOML value for a message: shortened, and without passwords in URLs."""
    if isinstance(value, str):
        text = redact(value)
        return json.dumps(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "an array"
    return str(value).lower()  # true and false, as in TOML


def _may_be_secret(kind: Any) -> bool:
    """Whether values of this type may be secrets: all but numbers, booleans and choices among words."""
    info = kind if isinstance(kind, inspect.Type) else inspect.type_info(kind)
    if isinstance(info, inspect.UnionType):
        return any(map(_may_be_secret, info.types))
    harmless = inspect.IntType | inspect.FloatType | inspect.BoolType | inspect.LiteralType | inspect.NoneType
    return not isinstance(info, harmless)


def expected(kind: Any) -> str:
    """The values that a type accepts beside None, in words: `int >= 1`."""
    if kind == StartOption:
        return START_TEXTS
    info = kind if isinstance(kind, inspect.Type) else inspect.type_info(kind)
    match info:
        case inspect.IntType() | inspect.FloatType():
            bounds = ((sign, getattr(info, at)) for at, sign in _BOUNDS.items())
            limits = " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)
            return f"{'int' if isinstance(info, inspect.IntType) else 'float'} {limits}".strip()
        case inspect.StrType():
            plain = "text, not empty" if info.min_length else "text"
            return "64 hex digits" if info.pattern == SHA256 else plain
        case inspect.LiteralType():
            return " or ".join(map(show, info.values))
        case inspect.UnionType():
            return " or ".join(expected(one) for one in info.types if not isinstance(one, inspect.NoneType))
    name = type(info).__name__.removesuffix("Type").lower()
    return _WORDS.get(name, name)
