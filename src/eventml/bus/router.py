"""The class `Router`: registers handlers, lifespans and topics."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar, Unpack

import msgspec
from msgspec import structs

from eventml.bus.connection import Topic
from eventml.codec import Format
from eventml.errors import RegistrationError
from eventml.handler_options import Canary, HandlerArguments
from eventml.handlers import Handler, To, read_handler
from eventml.models import ModelSource
from eventml.signatures import function_name

F = TypeVar("F", bound="Callable[..., Any]")
L = TypeVar("L", bound="Callable[[], Any]")


class Router:
    """Handlers, lifespans and topics of one module of an app, for a bus to include.

    A bus is a router that has a name and a backend. Modules with handlers import a router of their own, and
    the module of the bus imports them: `bus.include(rides.router)`. A router may be included by several buses
    and by other routers. What is registered with it later is registered with them too.

    Attributes:
        handlers: The registered handlers by name, as in the code. Their default groups begin with the name of
            the bus, which a router does not have.
        topics: The declared topics by name, as in the code.
        lifespans: The registered lifespans by name, as functions that return a context manager.
    """

    name: str = ""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.topics: dict[str, Topic] = {}
        self.lifespans: dict[str, Callable[[], Any]] = {}
        self._registrations: list[Callable[[Router], None]] = []  # for those that include this
        self._parents: list[Router] = []

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

        The decorator returns the function unchanged. In an interactive session, a function of the same name
        that is defined again, as by a cell of a notebook, replaces the handler; otherwise names are unique.

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
        return self._decorator(topic, to, model, arguments)

    def challenger(self, champion: str, name: str, *, model: ModelSource) -> None:
        """Register a second model beside a predictor, which sees the same events and answers beside it.

        Its predictions go to `<to>.challenger.<name>`, and it reads in a group of its own, so that it never
        delays the predictor's events. It answers no requests. Configuration can add one too:
        `[consumer.<predictor>.challenger.<name>]`.

        Args:
            champion: Name of the predictor, which is registered before.
            name: Name of the challenger: it becomes the predictor `<champion>.challenger.<name>`.
            model: As for `predictor`.

        Raises:
            RegistrationError: There is no such predictor, it can have no challenger, or the name is taken.
        """
        self._register(partial(Router._add_challenger, champion=champion, name=name, model=model))

    def canary(self, predictor: str, *, model: ModelSource, **options: Any) -> None:
        """Register a second model that answers for a share of a predictor's keys, on streams.

        They are always the same keys; an event without one is chosen by its id. For these events both models
        are called and compared, and the predictor's model answers the events that the canary fails for. The
        options are the fields of `Canary`. Configuration can add a canary or replace it:
        `[consumer.<predictor>.canary]`.

        Raises:
            RegistrationError: There is no such predictor, it can have no canary, or an option is not valid.
        """
        options["model"] = model
        self._register(partial(Router._add_canary, predictor=predictor, options=options))

    def consumer(
        self, topic: str, *, model: ModelSource | None = None, **arguments: Unpack[HandlerArguments]
    ) -> Callable[[F], F]:
        """Register a function that reads `topic` and has no outputs. Otherwise as `predictor`."""
        return self._decorator(topic, None, model, arguments)

    def lifespan(self, function: L) -> L:
        """Register a resource that handlers need while they run, such as a database connection.

        The function is a generator, plain or async, that yields the resource once and releases it
        afterwards. A handler gets the value by a parameter with the function's name. The lifespan is entered
        once per worker, before the first event. The decorator returns the function unchanged.

        Raises:
            RegistrationError: The function is not a generator function, has a parameter without a default,
                or another one has its name.
        """
        name = function_name(function)
        if inspect.isasyncgenfunction(function):
            entered: Callable[[], Any] = asynccontextmanager(function)
        elif inspect.isgeneratorfunction(function):
            entered = contextmanager(function)
        else:
            raise RegistrationError(f"{name}: a lifespan yields once, the value that handlers get")
        try:
            inspect.signature(function).bind()
        except TypeError as exc:
            advice = "give the parameter a default, or make the value in the function"
            raise RegistrationError(f"{name}: a lifespan gets no arguments: {exc}; {advice}") from None
        self._register(partial(Router._add_lifespan, name=name, entered=entered))
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
        """Declare a topic by the attributes of `Topic`. Others need none.

        It may be declared again with the same attributes, and in an interactive session with others.

        Raises:
            RegistrationError: The topic is declared differently; or events cannot have the type.
        """
        topic = Topic(event_type=event_type, id_field=id_field, codec=codec, strict=strict)
        self._register(partial(Router._add_topic, name=name, topic=topic))
        return topic

    def include(self, router: Router) -> None:
        """Register all that is registered with a router, now and later. A second time changes nothing.

        Raises:
            RegistrationError: A name is taken by another handler or lifespan, or a topic is declared
                differently; or `router` is a bus, or includes this one.
        """
        if router.name or self._is_part_of(router):
            other = f"the bus {router.name!r}" if router.name else "itself or one that includes it"
            raise RegistrationError(f"a router or a bus includes a Router, not {other}")
        for registration in router._registrations:
            self._register(registration)
        if self not in router._parents:
            router._parents.append(self)

    def _is_part_of(self, router: Router) -> bool:
        return router is self or any(one._is_part_of(router) for one in self._parents)  # noqa: SLF001 - as above

    def _decorator(
        self, topic: str, to: To | None, model: ModelSource | None, arguments: HandlerArguments
    ) -> Callable[[F], F]:
        def register(function: F) -> F:
            read = partial(read_handler, function, topic=topic, to=to, model=model, arguments=arguments)
            self._register(partial(Router._add_handler, read=read))
            return function

        return register

    def _register(self, registration: Callable[[Router], None]) -> None:
        if registration not in self._registrations:  # it comes again by a second router that includes it
            registration(self)
            self._registrations.append(registration)
        for parent in self._parents:
            parent._register(registration)  # noqa: SLF001 - of the same class

    def _add_handler(self, read: Callable[[str], Handler]) -> None:
        handler = read(self.name)
        known = self.handlers.get(handler.name)
        if known is not None and not _is_defined_again(known.function, handler.function):
            raise RegistrationError(
                f"{handler.name}: two handlers have this name, {_place(known.function)} and "
                f"{_place(handler.function)}; pass name=... to one"
            )
        if known is not None and known.canary is not None:
            handler = structs.replace(handler, canary=known.canary)
        self.handlers[handler.name] = handler
        for one in list(self.handlers.values()):  # its challengers call the function that is defined now
            if one.champion == handler.name and one.model is not None:
                challenger = _challenger_of(handler, one.name.rpartition(".")[2], one.model)
                self.handlers[challenger.name] = challenger

    def _add_challenger(self, champion: str, name: str, model: ModelSource) -> None:
        if champion not in self.handlers:
            raise RegistrationError(
                f"challenger {name!r}: no predictor is named {champion!r}; register it before"
            )
        handler = _challenger_of(self.handlers[champion], name, model)
        known = self.handlers.get(handler.name)
        if known is not None and not (known.champion and hasattr(sys, "ps1")):  # a cell may be run again
            raise RegistrationError(
                f"{handler.name}: two handlers have this name; give the challenger another"
            )
        self.handlers[handler.name] = handler

    def _add_canary(self, predictor: str, options: Mapping[str, Any]) -> None:
        if predictor not in self.handlers:
            raise RegistrationError(f"canary: no predictor is named {predictor!r}; register it before")
        try:
            canary = msgspec.convert(options, Canary)
            self.handlers[predictor] = structs.replace(self.handlers[predictor], canary=canary)
        except ValueError as exc:
            why = str(exc).removeprefix("canary: ")
            raise RegistrationError(f"{predictor}: canary: {why}") from exc

    def _add_lifespan(self, name: str, entered: Any) -> None:
        known, function = getattr(self.lifespans.get(name), "__wrapped__", None), entered.__wrapped__
        if known not in (None, function) and not _is_defined_again(known, function):
            raise RegistrationError(
                f"{name}: two lifespans have this name, {_place(known)} and {_place(function)}; rename one"
            )
        self.lifespans[name] = entered

    def _add_topic(self, name: str, topic: Topic) -> None:
        known = self.topics.setdefault(name, topic)
        if known != topic and not hasattr(sys, "ps1"):  # the class of a cell that is run again is another one
            raise RegistrationError(
                f"the topic {name!r} is declared twice, as {known} and as {topic}; keep one"
            )
        self.topics[name] = topic


def _is_defined_again(known: Any, function: Any) -> bool:
    """Whether a function of an interactive session was defined again, as by running a cell again.

    Python, IPython and Jupyter set `sys.ps1` for a session, whose own module is `__main__`. A module that the
    session imports may not define two functions of a name.
    """
    return hasattr(sys, "ps1") and _place(known) == _place(function) and function.__module__ == "__main__"


def _place(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{function.__module__}.{named.__qualname__}"


def _challenger_of(champion: Handler, name: str, model: ModelSource) -> Handler:
    """A predictor beside another one: the same function and events, with another model.

    It has a consumer group and an output topic of its own, those of its champion with `.challenger.<name>`
    behind.

    Raises:
        RegistrationError: The handler has no model, or not one topic for its outputs; or the name has other
            characters than letters, digits, - and _.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise RegistrationError(
            f"{champion.name}: a challenger's name has letters, digits, - and _, not {name!r}"
        )
    if champion.model is None or len(champion.outputs) != 1 or champion.champion:
        raise RegistrationError(
            f"{champion.name} can have no challenger {name!r}: it needs a model and one topic for its outputs"
        )
    [(topic, type_)] = champion.outputs.items()
    behind = f".challenger.{name}"
    return structs.replace(
        champion,
        name=champion.name + behind,
        champion=champion.name,
        canary=None,
        outputs={topic + behind: type_},
        model=model,
        options=structs.replace(champion.options, group=champion.options.group + behind, golden=None),
    )
