"""An app: the bus, or a predictor of it, that a command line names as `MODULE:NAME`, and its topics."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from eventml.backends.base import CreatesTopics, NewTopic
from eventml.bus.bus import Bus
from eventml.config import TopicSettings
from eventml.errors import AppNotFoundError
from eventml.runtime import canary_topic, dead_letter_topic

_TEN_YEARS: Final = 315_360_000.0  # seconds of retention of a canary's topic, which holds its share


def topics_of(bus: Bus, *, partitions: int | None = None, replication: int | None = None) -> list[NewTopic]:
    """All topics that a bus declares, configures, reads or writes, dead-letter topics included, by name.

    `partitions` and `replication` replace the settings of all topics.
    """
    names = {*bus.topics, *bus.settings.topic}
    retention: dict[str, float] = {}
    for handler in map(bus.configured_handler, bus.handlers):
        names |= {handler.topic, *handler.outputs, dead_letter_topic(handler.topic, handler.options.group)}
        if handler.canary is not None:
            names |= set(filter(None, [handler.canary.truth]))
            retention[canary_topic(handler)] = _TEN_YEARS
    topics = []
    for name in sorted(names | retention.keys()):
        settings = bus.settings.topic.get(name, TopicSettings())
        topics.append(
            NewTopic(
                name=name,
                partitions=settings.partitions if partitions is None else partitions,
                replication=settings.replication if replication is None else replication,
                retention=settings.retention or retention.get(name),
            )
        )
    return topics


async def create_topics(bus: Bus, topics: Sequence[NewTopic] | None = None) -> Sequence[str] | None:
    """Create topics that do not exist yet, by default those of `topics_of`. The bus must be open.

    Returns:
        The names of the topics created. None if the backend creates a topic with its first record.

    Raises:
        BackendError: A topic cannot be created.
    """
    if not isinstance(bus.backend, CreatesTopics):
        return None
    return await bus.backend.create_topics(topics_of(bus) if topics is None else topics)


def import_bus(target: str) -> Bus:
    """Import the bus at `MODULE:BUS`, such as `examples.rides.app:bus`.

    With parentheses, as in `shop.app:make_bus()`, the attribute is an app factory: a function that is called
    without arguments and returns the bus. The current directory comes first on the path, as with `python -m`.

    Raises:
        AppNotFoundError: no such module, no such attribute, or the attribute is not a Bus.
        Exception: whatever the module raises while it is imported, or the factory.
    """
    module, name = _import_module(target, "MODULE:BUS, such as examples.rides.app:bus")
    attribute = name.removesuffix("()")
    found = getattr(module, attribute, None)
    if attribute != name and callable(found):
        if isinstance(made := found(), Bus):
            return made
        raise AppNotFoundError(f"{target} returned a {type(made).__name__}, not a Bus")
    if attribute == name and isinstance(found, Bus):
        return found
    if callable(found):
        raise AppNotFoundError(
            f"{target} is not a Bus; if it returns one when it is called, write {target}()"
        )
    buses = [key for key, value in vars(module).items() if isinstance(value, Bus)]
    raise AppNotFoundError(
        f"{target}: the module has no Bus named {name!r}{_suggestion(module.__name__, name, buses, 'buses')}"
    )


def import_predictor(target: str) -> tuple[Bus, str]:
    """Import the predictor at `MODULE:PREDICTOR`, such as `examples.rides.app:duration`.

    PREDICTOR is the function, or the name of the handler where that differs. Where the module has no bus that
    it is registered with, `MODULE:BUS:PREDICTOR` names one, as `import_bus` does.

    Returns:
        The bus that the predictor is registered with, and the name of its handler.

    Raises:
        AppNotFoundError: no such module or predictor, or the function is registered more than once.
        Exception: whatever the module raises while it is imported.
    """
    module, name = _import_module(target, "MODULE:PREDICTOR, such as examples.rides.app:duration")
    bus_name, _, name = name.rpartition(":")
    named = [import_bus(f"{module.__name__}:{bus_name}")] if bus_name else vars(module).values()
    buses = list({id(value): value for value in named if isinstance(value, Bus)}.values())
    if ".challenger." in name:  # the settings may add it
        _ = [bus.settings for bus in buses]
    handlers = [(bus, handler) for bus in buses for handler in bus.handlers.values()]
    function = getattr(module, name, None)
    found = [
        (bus, handler.name)
        for bus, handler in handlers
        if (
            handler.function is function and not handler.champion
            if callable(function)
            else handler.name == name
        )
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(handler for _, handler in found)
        raise AppNotFoundError(
            f"{target}: the function is registered more than once, as {names}; use one of these names instead"
        )
    predictors = [handler.name for _, handler in handlers if handler.outputs]
    raise AppNotFoundError(
        f"{target}: no predictor of that name is registered with {'this' if bus_name else 'a'} bus of the "
        f"module{_suggestion(target.rpartition(':')[0], name, predictors, 'predictors')}"
    )


def _import_module(target: str, expected: str) -> tuple[ModuleType, str]:
    """Import the module of `MODULE:NAME`. Returns it with the name."""
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise AppNotFoundError(f"{target!r}: expected {expected}")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise AppNotFoundError(
            f"{target!r}: expected the name of a module, not the path of a file: {dotted}:{name}"
        )
    directory = str(Path.cwd())
    if sys.path[0] != directory:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(module_name), name
    except ModuleNotFoundError as exc:
        # Only the module itself or a parent of it: a module that it imports may be missing too.
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise
        raise AppNotFoundError(
            f"{target}: no module is named {exc.name!r} in {directory} or on Python's path; "
            "run the command from the directory that holds it, or install its package"
        ) from exc


def _suggestion(parent: str, name: str, known: Iterable[str], plural: str) -> str:
    """The end of an error message that names the attribute that was probably meant."""
    names = list(known)
    close = names if len(names) == 1 else difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {parent}:{close[0]}?"
    return f"; its {plural} are: {', '.join(names)}" if names else f"; it has no {plural}"
