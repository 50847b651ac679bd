"""The class `Bus`."""

from __future__ import annotations

import inspect
import os
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import wraps
from importlib import metadata
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from eventml import config
from eventml.backends.base import Backend
from eventml.bus.connection import Topic, connect, handler_codecs, tracer
from eventml.bus.running import WebApplication, run_until_signal, stop_when_idle
from eventml.codec import Format
from eventml.errors import ConfigError, MissingExtraError, NotOpenError, RegistrationError
from eventml.handler_options import HandlerArguments
from eventml.handlers import Handler, To, configured, read_handler
from eventml.models import ModelSource, replacement
from eventml.producer import BlockingProducer, Producer
from eventml.runtime import LoadedHandler, Worker, load_handlers, task_group
from eventml.signatures import function_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
    from types import TracebackType

F = TypeVar("F", bound="Callable[..., Any]")
L = TypeVar("L", bound="Callable[[], Any]")
P = ParamSpec("P")
T = TypeVar("T")


def _on_producer(
    method: Callable[Concatenate[Producer, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Bus, P], Coroutine[Any, Any, T]]:
    """The method of `Producer`, with the same parameters and docstring, as a method of a bus that is open."""

    @wraps(method)
    async def call(self: Bus, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await method(self.open_producer, *args, **kwargs)

    call.__qualname__ = f"Bus.{method.__name__}"
    return call


class Bus:
    """Topics, handlers and a producer, on the backend that configuration chooses.

    Args:
        name: Name of the app: the source of its events, and the prefix of its consumer groups.
        backend: URL of the backend if configuration names none; by default `memory://`.

    Attributes:
        handlers: The registered handlers by name, as in the code.
        topics: The declared topics by name, as in the code.
        lifespans: The registered lifespans by name, as functions that return a context manager.
    """

    def __init__(self, name: str, *, backend: str | None = None) -> None:
        self.name = name
        self.handlers: dict[str, Handler] = {}
        self.topics: dict[str, Topic] = {}
        self.lifespans: dict[str, Callable[[], Any]] = {}
        self._default_backend = backend
        self._settings: config.Settings | None = None
        self._producer: Producer | None = None

    # Registering

    def predictor(
        self, topic: str, *, to: To, model: ModelSource | None = None, **arguments: Unpack[HandlerArguments]
    ) -> Callable[[F], F]:
        """Register a function that makes a prediction for each event of `topic`, and publish it to `to`.

        The annotation of the function's first parameter decides how it is called: `list[Event]` with a batch,
        `Event` with one event, and `pandas.DataFrame`, `polars.DataFrame` or `pyarrow.Table` with a batch as
        columns, those of `event_type`. A coroutine function is awaited, a plain function runs in a thread. It
        returns one output for each input, in their order; or an array of numbers, which become `Prediction`s;
        or a frame, whose rows become outputs of `output_type`. An output may be None for "no output", a list
        of outputs, an `Output` or a `Reject`. A parameter named `model` gets the model, one with the name of
        a lifespan its value, and one annotated `Delivery` (or `list[Delivery]`) the id, headers and so on.

        The decorator returns the function unchanged.

        Args:
            topic: Topic to read from.
            to: Topic to publish the outputs to. Or several, each with the class of the outputs that go there:
                `to={"rides.duration": DurationPredicted, "rides.audit": Audit}`.
            model: A path, `Artefact` or `Model`, or a function that returns one; loaded once per worker.
            arguments: The fields of `HandlerOptions`, and `name`, `event_type` and `output_type`.

        Raises:
            RegistrationError: The signature and the arguments do not fit together, or the name is taken.
            MissingExtraError: The function takes frames, and pyarrow is not installed.
        """
        return self._register(topic, to, model, arguments)

    def consumer(
        self, topic: str, *, model: ModelSource | None = None, **arguments: Unpack[HandlerArguments]
    ) -> Callable[[F], F]:
        """Register a function that reads `topic` and has no outputs. Otherwise as `predictor`."""
        return self._register(topic, None, model, arguments)

    def lifespan(self, function: L) -> L:
        """Register a resource that handlers need while they run, such as a database connection.

        The function is a generator, plain or async, that yields the resource once and releases it
        afterwards. A handler gets the value by a parameter with the function's name. The lifespan is entered
        once per worker, before the first event. The decorator returns the function unchanged.

        Raises:
            RegistrationError: The function is not a generator function.
        """
        name = function_name(function)
        if inspect.isasyncgenfunction(function):
            self.lifespans[name] = asynccontextmanager(function)
        elif inspect.isgeneratorfunction(function):
            self.lifespans[name] = contextmanager(function)
        else:
            raise RegistrationError(f"{name}: a lifespan yields once, the value that handlers get")
        return function

    def topic(
        self,
        name: str,
        *,
        event_type: Any = Any,
        id_field: str | None = None,
        codec: Format = "json",
        strict: bool = True,
    ) -> Topic:
        """Declare a topic by the attributes of `Topic`. Others need no declaration."""
        self.topics[name] = Topic(event_type=event_type, id_field=id_field, codec=codec, strict=strict)
        return self.topics[name]

    def _register(
        self, topic: str, to: To | None, model: ModelSource | None, arguments: HandlerArguments
    ) -> Callable[[F], F]:
        def register(function: F) -> F:
            handler = read_handler(function, self.name, topic=topic, to=to, model=model, arguments=arguments)
            if handler.name in self.handlers:
                raise RegistrationError(f"{handler.name}: two handlers have this name; pass name=... to one")
            self.handlers[handler.name] = handler
            return function

        return register

    # Configuration

    @property
    def settings(self) -> config.Settings:
        """The settings, read from all sources at the first use; see `read_settings`."""
        if self._settings is None:
            self._settings = self.read_settings()
        return self._settings

    def configure(self, settings: config.Settings) -> None:
        """Replace all settings, before the bus is opened."""
        self._settings = settings

    def read_settings(self, overrides: Mapping[str, Any] | None = None) -> config.Settings:
        """Read the settings from all sources, without keeping them. `overrides` is the strongest source.

        Raises:
            ConfigError: A setting is unknown or has the wrong type; the message starts with its path.
        """
        return config.load(
            overrides=overrides,
            default_backend=self._default_backend,
            known_handlers=tuple(self.handlers),
        )

    def configured_handler(self, name: str) -> Handler:
        """A registered handler with its settings applied: its model, and fields of `HandlerOptions`.

        Raises:
            ConfigError: An option does not suit the handler; or there is a digest of a model and no file.
        """
        handler, options = self.handlers[name], dict(self.settings.consumer.get(name, {}))
        path, sha256, model = options.pop("model", None), options.pop("model_sha256", None), handler.model
        if path is not None:
            model = replacement(model, path, sha256)
        elif sha256 is not None:
            raise ConfigError(f"consumer.{name}.model_sha256: set model too, the file that has this sha256")
        return configured(handler, model, options)

    def declared_topic(self, name: str) -> Topic:
        """A topic as it is declared, or with the defaults."""
        return self.topics.get(name, Topic())

    # Publishing

    @asynccontextmanager
    async def open(self, backend: Backend | None = None) -> AsyncIterator[Self]:
        """Connect, to publish or to run handlers. `async with bus:` does the same.

        Args:
            backend: A connected backend, in place of the configured one.

        Raises:
            NotOpenError: The bus is open already.
            ConfigError: The settings are invalid.
            UnavailableError: The broker cannot be reached.
        """
        if self._producer is not None and self._producer.pid == os.getpid():
            raise NotOpenError(f"bus {self.name!r} is open already; open it once, around all its uses")
        async with connect(self.name, self.settings, self.topics, self.handlers, backend) as producer:
            self._producer = producer
            try:
                yield self
            finally:
                self._producer = None

    async def __aenter__(self) -> Self:
        self._opened = self.open()
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._opened.__aexit__(kind, error, trace)

    publish = _on_producer(Producer.publish)
    publish_many = _on_producer(Producer.publish_many)
    request = _on_producer(Producer.request)

    def producer(self) -> BlockingProducer:
        """A producer for blocking code, with a connection of its own. Use it with `with`."""
        return BlockingProducer(lambda: connect(self.name, self.settings, self.topics, self.handlers))

    @property
    def backend(self) -> Backend:
        """The connected backend. Raises NotOpenError as `open_producer` does."""
        return self.open_producer.backend

    @property
    def open_producer(self) -> Producer:
        """The producer of the open bus. Raises NotOpenError if it is not open in this process."""
        if self._producer is None:
            raise NotOpenError(f"bus {self.name!r} is not open; use it inside `async with bus:`")
        if self._producer.pid != os.getpid():
            raise NotOpenError(
                f"bus {self.name!r} was opened before a fork, and its connection is that of the parent "
                f"process ({self._producer.pid}); open it in this process too, with `async with bus:`"
            )
        return self._producer

    # Running

    @asynccontextmanager
    async def worker(self, only: Sequence[str] = ()) -> AsyncIterator[Worker]:
        """A worker ready to run the handlers: models loaded, lifespans entered. The bus must be open.

        Args:
            only: Names of the handlers to run; by default all.

        Raises:
            NotOpenError: The bus is not open.
            UnsupportedError: A handler requires what the backend cannot provide.
            EventMLError: As for `loaded_handlers`.
        """
        async with self.loaded_handlers(only) as handlers:
            # An app may configure OpenTelemetry in a lifespan, which is entered after the bus was opened.
            drain, tracing = self.settings.drain, tracer(self.settings)
            yield Worker(self.backend, handlers, source=self.name, drain=drain, tracing=tracing)

    @asynccontextmanager
    async def loaded_handlers(self, only: Sequence[str] = ()) -> AsyncIterator[list[LoadedHandler]]:
        """The handlers with their models loaded and their lifespans entered. The bus need not be open.

        Args:
            only: Names of the handlers; by default all.

        Raises:
            ConfigError: A name in `only` is not a handler's.
            ModelError: A model cannot be loaded.
            RegistrationError: A handler has a parameter that is neither `model` nor a lifespan's name.
        """
        if unknown := [name for name in only if name not in self.handlers]:
            raise ConfigError(f"no handler is named {unknown[0]!r}; there are: {', '.join(self.handlers)}")
        handlers = [self.configured_handler(name) for name in only or self.handlers]
        codecs = handler_codecs(handlers, self.topics)
        async with AsyncExitStack() as stack:
            yield await load_handlers(stack, handlers, self.lifespans, codecs)

    def asgi(self, *, only: Sequence[str] = (), authenticate: bool = True) -> WebApplication:
        """The predictors as an ASGI app (`/predict/<predictor>` and more), to serve or to mount, on asyncio.

        A server enters its lifespan. An app that mounts it must enter it itself, because the server does not
        know of mounted apps: `FastAPI(lifespan=predictions.lifespan)`. If the mounting app opens this bus,
        `/events/<topic>` publishes through it.

        Args:
            only: Names of the predictors to serve; by default all.
            authenticate: Whether to require the token in `EVENTML_TOKEN`, or, if that is not set, to refuse
                clients on other machines. False leaves authentication to the mounting app.

        Raises:
            MissingExtraError: The extra `web` is not installed.
            ConfigError: eventml is not installed, but imported from its source folder.
        """
        # Deployments import the bus, so the bus finds this one by its entry point.
        point = next(iter(metadata.entry_points(group="eventml.deployments", name="web")), None)
        if point is None:
            raise ConfigError("eventml runs from its source folder; install it: pip install 'eventml[web]'")
        try:
            deployment = point.load()
        except ModuleNotFoundError as exc:
            if (exc.name or "").split(".")[0] == "eventml":
                raise
            raise MissingExtraError("web", "Bus.asgi") from exc
        app: WebApplication = deployment.application(self, only=only, authenticate=authenticate)
        return app

    async def run(self, *, only: Sequence[str] = (), until_idle: float | None = None) -> bool:
        """Open the bus and run its handlers until SIGTERM or SIGINT, then finish what is in flight.

        While models load, a signal ends the call at once. A second signal abandons what is in flight; its
        events are delivered again later. Signals are handled only in the main thread; in another thread,
        cancel the call to stop it. Handlers of your own for these signals are not restored.

        Args:
            only: Names of the handlers to run; by default all.
            until_idle: Stop when no event has arrived and none has been in flight for this long, in seconds.

        Returns:
            Whether everything in flight at the end was finished within the setting `drain`.

        Raises:
            NotOpenError: The bus is open already.
            ConfigError: A setting is invalid, or a name in `only` is not a handler's.
            RegistrationError: A handler has a parameter that is neither `model` nor a lifespan's name.
            ModelError: A model cannot be loaded.
            UnsupportedError: A handler requires what the backend cannot provide.
            BackendError: The broker cannot be reached at the start, a topic does not exist, or it is
                unknown for 60 s whether events are left (`until_idle`). Other outages are waited for.
        """

        @asynccontextmanager
        async def opened() -> AsyncIterator[Worker]:
            async with self.open(), self.worker(only) as worker, task_group() as tasks:
                if until_idle is not None:
                    tasks.start_soon(stop_when_idle, worker, until_idle)
                yield worker
                tasks.cancel_scope.cancel()

        return await run_until_signal(opened(), Worker.stop, Worker.abandon)
