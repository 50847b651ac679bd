"""The class `Bus`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from msgspec.structs import replace

from eventml import config
from eventml.backends.base import Backend
from eventml.bus.connection import Topic, connect, handler_codecs, tracer
from eventml.bus.reading import read
from eventml.bus.router import Router
from eventml.bus.running import Background, WebApplication, run_until_signal, stop_when_idle
from eventml.entry_points import registered
from eventml.errors import ConfigError, MissingExtraError, NotOpenError, RegistrationError
from eventml.handlers import Handler, configured
from eventml.models import replacement, with_compiler
from eventml.producer import BlockingProducer, Producer
from eventml.runtime import LoadedHandler, Worker, load_canary, load_handlers, task_group

_OF_CHAMPION: Final = {"challenger", "canary", "model", "model_sha256", "model_compile", "group", "golden"}
"""Settings of a predictor that its challengers do not share."""

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


class Bus(Router):
    """Topics, handlers and a producer, on the backend that configuration chooses.

    Args:
        name: Name of the app: the source of its events, and the prefix of its consumer groups.
        backend: URL of the backend if configuration names none; by default `memory://`.

    Handlers, lifespans and topics are registered by the methods of `Router`, and here under `handlers`,
    `lifespans` and `topics`.

    Raises:
        RegistrationError: The name is empty.
    """

    def __init__(self, name: str, *, backend: str | None = None) -> None:
        super().__init__()
        if not name:
            raise RegistrationError("a bus needs a name, which is the prefix of its consumer groups")
        self.name = name
        self._default_backend = backend
        self._settings: config.Settings | None = None
        self._producer: Producer | None = None
        self._background: Background | None = None

    # Configuration

    @property
    def settings(self) -> config.Settings:
        """The settings, read from all sources at the first use; see `read_settings`."""
        if self._settings is None:
            self.configure(self.read_settings())
            assert self._settings is not None  # noqa: S101 - for the type checker
        self._add_challengers(self._settings)  # of predictors that were registered since
        return self._settings

    def configure(self, settings: config.Settings) -> None:
        """Replace all settings, before the bus is opened."""
        self._settings = settings
        for champion, options in settings.consumer.items():
            for name in options.get("challenger", {}):
                known = self.handlers.get(f"{champion}.challenger.{name}")
                if known is not None and known.champion:
                    del self.handlers[known.name]  # that of the code, or of earlier settings
        self._add_challengers(settings)

    def _add_challengers(self, settings: config.Settings) -> None:
        """Register the challengers that settings name, where they are not registered yet."""
        for champion, options in settings.consumer.items():
            for name, given in options.get("challenger", {}).items():
                if champion in self.handlers and f"{champion}.challenger.{name}" not in self.handlers:
                    source = replacement(self.handlers[champion].model, given.model, given.model_sha256)
                    if given.model_compile is not None:
                        source = with_compiler(source, given.model_compile)
                    self.challenger(champion, name, model=source)

    def read_settings(self, overrides: Mapping[str, Any] | None = None) -> config.Settings:
        """Read the settings from all sources, without keeping them. `overrides` is the strongest source.

        Raises:
            ConfigError: A setting is unknown or has the wrong type; the message starts with its path.
        """
        return config.load(
            overrides=overrides,
            default_backend=self._default_backend,
            known_handlers=tuple(self.handlers),
            bus=self.name,
        )

    def configured_handler(self, name: str) -> Handler:
        """A registered handler with its settings applied: its model, and fields of `HandlerOptions`.

        Raises:
            ConfigError: An option does not suit the handler; or there is a digest of a model and no file.
        """
        handler, options = self.handlers[name], dict(self.settings.consumer.get(name, {}))
        options.pop("challenger", None)
        if handler.champion:
            of_champion = self.settings.consumer.get(handler.champion, {})
            options = {k: v for k, v in of_champion.items() if k not in _OF_CHAMPION} | options
        path, sha256, model = options.pop("model", None), options.pop("model_sha256", None), handler.model
        canary = handler.canary
        if (given := options.pop("canary", None)) is not None:
            canary = replace(given, model=replacement(model, given.model, given.model_sha256))
        if path is not None:
            model = replacement(model, path, sha256)
        elif sha256 is not None:
            raise ConfigError(f"consumer.{name}.model_sha256: set model too, the file that has this sha256")
        if (compiler := options.pop("model_compile", None)) is not None:
            model = with_compiler(model, compiler)
        return configured(handler, model, options, canary=canary)

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
    read = read

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
            for loaded in handlers:
                loaded.canary = await load_canary(loaded.handler, loaded.model, loaded.lifespans)
            # An app may configure OpenTelemetry in a lifespan, which is entered after the bus was opened.
            drain, tracing = self.settings.drain, tracer(self.settings)
            yield Worker(self.backend, handlers, source=self.name, drain=drain, tracing=tracing)

    @asynccontextmanager
    async def loaded_handlers(self, only: Sequence[str] = ()) -> AsyncIterator[list[LoadedHandler]]:
        """The handlers with their models loaded and their lifespans entered. The bus need not be open.

        Args:
            only: Names of the handlers; by default all.

        Raises:
            AppNotFoundError: A name in `only` is not a handler's.
            ModelError: A model cannot be loaded.
            RegistrationError: A handler has a parameter that is neither `model` nor a lifespan's name.
        """
        _ = self.settings  # which may add challengers
        config.check_known(only, self.handlers)
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
        point = registered("eventml.deployments").get("web")
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
            EventMLError: As for `loaded_handlers`.
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

    async def run_in_background(self, *, only: Sequence[str] = ()) -> Background:
        """Run the handlers in a task of the running event loop, as in a notebook, until `stop` of the result.

        Returns when they have subscribed. The bus is open then, to publish and to request. If it runs in the
        background already, as when a cell of a notebook is run again, it is stopped and started anew, with
        the handlers that are registered now. Needs asyncio. Signals are left to the program.

        Args:
            only: Names of the handlers to run; by default all.

        Raises:
            EventMLError: As for `run`.
        """

        @asynccontextmanager
        async def running() -> AsyncIterator[None]:
            async with self.open(), self.worker(only) as worker, task_group() as tasks:
                tasks.start_soon(worker.run)
                await worker.ready.wait()
                yield
                worker.stop()

        return await self._start_background(running())

    async def _start_background(self, opened: AbstractAsyncContextManager[object]) -> Background:
        if self._background is not None:
            with suppress(Exception):  # it has been logged
                await self._background.stop()
        self._background = Background(opened)
        return await self._background.start()
