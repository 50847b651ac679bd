"""The bus: where producers announce and handlers register, whatever carries the events."""

from __future__ import annotations

import threading
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack
from urllib.parse import urlsplit

from eventml import config
from eventml.bus.configuring import configured_handler, configured_topic
from eventml.bus.lifespans import read_lifespan
from eventml.bus.stopping import stop_on_signals, stop_when_idle
from eventml.bus.topic import Topic
from eventml.errors import ConfigError, NotOpenError, RegistrationError
from eventml.handlers import Handler, HandlerChoices, read_handler
from eventml.producer import BlockingProducer, Producer, producing
from eventml.runtime import Worker, enter_lifespans, find_tracing, load_handler, output_event_type, task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from eventml.backends.base import Backend
    from eventml.bus.topic import TopicChoices
    from eventml.models import ModelSource
    from eventml.producer import KeyOf
    from eventml.runtime import LoadedHandler, Tracing

F = TypeVar("F", bound="Callable[..., Any]")
L = TypeVar("L", bound="Callable[[], Any]")


_SYSTEMS: Final = {"rediss": "redis", "unix": "redis"}
"""What OpenTelemetry calls the system behind a URL's scheme, where that is not the scheme itself."""


class Bus:
    """Topics by name, producers and handlers, over the backend that configuration chooses.

    Args:
        name: The app's name: the source of its events, and the prefix of its consumer groups.
        backend: The URL of a backend, where no configuration names another; `memory://` by default.
    """

    def __init__(self, name: str, *, backend: str | None = None) -> None:
        self.name = name
        self.handlers: dict[str, Handler] = {}
        self.topics: dict[str, Topic] = {}
        self._default_backend = backend
        self.lifespans: dict[str, Callable[[], Any]] = {}
        self._settings: config.Settings | None = None
        self._backend: Backend | None = None
        self._producer: Producer | None = None

    # Registering

    def predictor(
        self, topic: str, *, to: str, model: ModelSource | None = None, **choices: Unpack[HandlerChoices]
    ) -> Callable[[F], F]:
        """Register a function that answers each event of `topic` with one of its own on `to`.

        The annotation of its first parameter says how it is called: `list[Event]` with batches,
        `Event` with one at a time, and a `pandas.DataFrame`, `polars.DataFrame` or `pyarrow.Table` with
        batches as columns, those of `event_type`. A coroutine is awaited; a plain function runs in a
        thread. It returns an output for each input, in their order, with None for "no output"; or an
        array of as many numbers, which become `Prediction`s; or a frame, whose rows become outputs of
        `output_type`. A parameter named `model` takes the model, and
        one with a lifespan's name takes that lifespan's value.

        The decorator returns the function unchanged.

        Args:
            topic: What it reads.
            to: Where its outputs go.
            model: A path, an `Artefact`, or a function that makes the model; loaded once a worker.
            choices: How it is run: the attributes of `Options` and of `Choices`.

        Raises:
            RegistrationError: the signature and the options do not fit together.
            MissingExtraError: it takes frames, and what makes them is not installed.
        """
        return self._registering(topic, to, model, choices)

    def consumer(
        self, topic: str, *, model: ModelSource | None = None, **choices: Unpack[HandlerChoices]
    ) -> Callable[[F], F]:
        """Register a function that reads `topic` and answers nothing. Otherwise as `predictor`."""
        return self._registering(topic, None, model, choices)

    def lifespan(self, function: L) -> L:
        """Register something that handlers need while they run: a database connection, a client.

        A generator, plain or async, that yields it once and cleans up after. A handler takes it by a
        parameter of the function's name. It is entered once a worker, before the first event.
        """
        self.lifespans[function.__name__] = read_lifespan(function)
        return function

    def topic(self, name: str, **said: Unpack[TopicChoices]) -> Topic:
        """Say something of a topic: the type of its events, which field is their id, their format."""
        self.topics[name] = Topic(**said)
        return self.topics[name]

    def _registering(
        self, topic: str, to: str | None, model: ModelSource | None, choices: HandlerChoices
    ) -> Callable[[F], F]:
        def register(function: F) -> F:
            handler = read_handler(function, bus=self.name, topic=topic, to=to, model=model, choices=choices)
            if handler.name in self.handlers:
                raise RegistrationError(f"{handler.name}: two handlers have this name; give one name=...")
            self.handlers[handler.name] = handler
            return function

        return register

    # Configuration

    @property
    def settings(self) -> config.Settings:
        """What configuration says, read when it is first wanted.

        Raises:
            ConfigError: a setting is unknown or ill-typed; the message starts with its path.
        """
        if self._settings is None:
            self._settings = self.read_settings()
        return self._settings

    def configure(self, settings: config.Settings) -> None:
        """Replace what configuration says, before the bus is opened."""
        self._settings = settings

    def read_settings(self, overrides: Mapping[str, Any] | None = None) -> config.Settings:
        """Read the configuration afresh, with the strongest say given to `overrides`."""
        handlers = self.handlers.values()
        return config.load(
            overrides=overrides,
            default_backend=self._default_backend,
            known_handlers=tuple(self.handlers),
            known_topics=tuple(
                {*self.topics, *(h.topic for h in handlers), *(h.to for h in handlers if h.to)}
            ),
        )

    def configured(self, name: str) -> Handler:
        """A handler as configuration has it."""
        return configured_handler(self.handlers[name], self.settings.consumer.get(name))

    def described(self, topic: str) -> Topic:
        """A topic as the app and its configuration have it."""
        return configured_topic(self.topics.get(topic, Topic()), self.settings.topic.get(topic))

    # Publishing

    @asynccontextmanager
    async def open(self, backend: Backend | None = None) -> AsyncIterator[Self]:
        """Connect, to publish or to run; `async with bus:` does the same.

        Args:
            backend: A connected backend to use in place of the configured one.
        """
        if self._producer is not None:
            raise NotOpenError(f"bus {self.name!r} is open already; open it once, around all that uses it")
        async with AsyncExitStack() as stack:
            if backend is None:
                backend = await stack.enter_async_context(self._connect())
            self._producer = await stack.enter_async_context(self._producing(backend))
            self._backend = backend
            try:
                yield self
            finally:
                self._backend = self._producer = None

    async def __aenter__(self) -> Self:
        self._opened = self.open()
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._opened.__aexit__(kind, error, trace)

    async def publish(
        self,
        topic: str,
        event: Any,
        *,
        key: str | bytes | None = None,
        id: str | None = None,  # noqa: A002 - CloudEvents' word
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish one event; see `Producer.publish`. The bus must be open."""
        await self.producing.publish(topic, event, key=key, id=id, headers=headers)

    async def publish_many(self, topic: str, events: Iterable[Any], *, key: KeyOf | None = None) -> int:
        """Publish many events in few writes; see `Producer.publish_many`. The bus must be open."""
        return await self.producing.publish_many(topic, events, key=key)

    async def request(
        self,
        topic: str,
        event: Any,
        *,
        timeout: float = 10.0,  # noqa: ASYNC109 - as `Producer.request`
        predictor: str | None = None,
        key: str | bytes | None = None,
        output_type: Any = None,
    ) -> Any:
        """Publish one event and wait for its prediction; see `Producer.request`. The bus must be open."""
        return await self.producing.request(
            topic, event, timeout=timeout, predictor=predictor, key=key, output_type=output_type
        )

    def producer(self) -> BlockingProducer:
        """A producer for blocking code, to be used with `with`; it connects by itself."""

        @asynccontextmanager
        async def connect() -> AsyncIterator[Producer]:
            async with self._connect() as backend, self._producing(backend) as producer:
                yield producer

        return BlockingProducer(connect)

    @property
    def backend(self) -> Backend:
        """The connected backend.

        Raises:
            NotOpenError: the bus is not open.
        """
        if self._backend is None:
            raise NotOpenError(f"bus {self.name!r} is not open; use it inside `async with bus:`")
        return self._backend

    @property
    def producing(self) -> Producer:
        """The open bus's own producer.

        Raises:
            NotOpenError: the bus is not open.
        """
        if self._producer is None:
            raise NotOpenError(f"bus {self.name!r} is not open; publish inside `async with bus:`")
        return self._producer

    def _connect(self) -> AbstractAsyncContextManager[Backend]:
        settings = self.settings.backend
        module = config.find_backend(urlsplit(settings.url).scheme)
        return module.open(settings.url, settings.options)

    def _producing(self, backend: Backend) -> AbstractAsyncContextManager[Producer]:
        topics = {name: self.described(name) for name in {*self.topics, *self.settings.topic}}
        return producing(
            backend,
            source=self.name,
            id_fields={name: topic.id_field for name, topic in topics.items() if topic.id_field},
            formats={name: topic.codec for name, topic in topics.items()},
            output_type_of=self._output_type_of,
            tracing=self.tracing(),
        )

    def tracing(self) -> Tracing | None:
        """Who is told of what becomes of events, as the setting `tracing` has it; None where nobody is.

        Raises:
            MissingExtraError: it is on, and OpenTelemetry is not installed.
        """
        scheme = self.settings.backend.scheme
        return find_tracing(self.settings.tracing, _SYSTEMS.get(scheme, scheme))

    def _output_type_of(self, topic: str, predictor: str) -> Any:
        handler = self.handlers.get(predictor)
        if handler is None or handler.to is None or handler.topic != topic:
            return Any
        said = self.topics.get(handler.to, Topic()).event_type
        return output_event_type(handler) if said is Any else said

    # Running

    @asynccontextmanager
    async def worker(self, only: Sequence[str] = ()) -> AsyncIterator[Worker]:
        """A worker ready to run this bus's handlers: models loaded, lifespans entered. The bus must be open.

        Args:
            only: The names of the handlers to run; all of them where there are none.

        Raises:
            ConfigError: there is no such handler.
            ModelError: a model cannot be loaded.
            UnsupportedError: the backend cannot give what a handler asks for.
        """
        async with self.loaded_handlers(only) as jobs:
            yield Worker(
                self.backend, jobs, source=self.name, drain=self.settings.drain, tracing=self.tracing()
            )

    @asynccontextmanager
    async def loaded_handlers(self, only: Sequence[str] = ()) -> AsyncIterator[list[LoadedHandler]]:
        """This bus's handlers with their models loaded and their lifespans entered. It need not be open.

        Args:
            only: The names of the handlers; all of them where there are none.

        Raises:
            ConfigError: there is no such handler.
            ModelError: a model cannot be loaded.
        """
        handlers = [self.configured(name) for name in self._chosen(only)]
        async with AsyncExitStack() as stack:
            resources = await enter_lifespans(stack, handlers, self.lifespans)
            yield [
                await load_handler(
                    handler, resources, self.described(handler.to).codec if handler.to else "json"
                )
                for handler in handlers
            ]

    def asgi(self, *, only: Sequence[str] = (), authenticate: bool = True) -> Any:
        """The predictors as an ASGI app (`/predict/<predictor>` and more), to serve or to mount in another.

        A server that is given it enters its lifespan. An app that mounts it has to, as no server knows of
        what is mounted: `FastAPI(lifespan=predictions.lifespan)`. It runs on asyncio. Where the app around
        opens this bus, `/events/<topic>` publishes through it.

        Args:
            only: The names of the predictors that can be asked; all of them where there are none.
            authenticate: Callers must send the token in `EVENTML_TOKEN`; where there is none, only those
                on this machine are answered. False leaves that to the app around.

        Raises:
            MissingExtraError: the extra `web` is not installed.
        """
        [web] = metadata.entry_points(group="eventml.deployments", name="web")
        return web.load().application(self, only=only, authenticate=authenticate)

    async def run(self, *, only: Sequence[str] = (), until_idle: float | None = None) -> bool:
        """Open the bus and run its handlers until SIGTERM or SIGINT, then finish what is in hand.

        A second signal gives up on what is in hand. Signals are heeded in the main thread only;
        elsewhere, cancel it.

        Args:
            only: The names of the handlers to run; all of them where there are none.
            until_idle: Stop by itself once nothing has arrived and nothing is left for so many seconds.

        Returns:
            Whether all that was in hand at the end was finished within `drain`.
        """
        async with self.open(), self.worker(only) as worker, task_group() as tasks:
            if threading.current_thread() is threading.main_thread():
                tasks.start_soon(stop_on_signals, worker)
            if until_idle is not None:
                tasks.start_soon(stop_when_idle, worker, until_idle)
            finished = await worker.run()
            tasks.cancel_scope.cancel()
        return finished

    def _chosen(self, only: Sequence[str]) -> Sequence[str]:
        unknown = [name for name in only if name not in self.handlers]
        if unknown:
            raise ConfigError(f"no handler is named {unknown[0]!r}; there are: {', '.join(self.handlers)}")
        return tuple(only) or tuple(self.handlers)
