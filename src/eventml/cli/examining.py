"""What would run if a bus ran, and what stands in the way."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from eventml import config, models
from eventml.backends.base import CreatesTopics
from eventml.cli.buses import url_of
from eventml.cli.findings import Findings, HandlerFinding, ModelFinding
from eventml.cli.reporting import leaves
from eventml.errors import EventMLError
from eventml.runtime import check_capabilities
from eventml.topics import topics_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventml.bus import Bus
    from eventml.handlers import Handler


async def examine(bus: Bus, *, connect: bool) -> Findings:
    """Find out, without running anything: models are loaded, lifespans are not entered.

    Args:
        bus: The bus, configured.
        connect: Reach the backend too, and look for the topics; no group is made or joined.
    """
    found = Findings(bus=bus.name, backend=url_of(bus), drain=bus.settings.drain)
    handlers = [bus.configured(name) for name in bus.handlers]
    if not handlers:
        found.problems.append("no handler is registered; import the modules that do so in the bus's own")
    with _noting(found):
        await _look_at_backend(bus, found, connect=connect)
    for handler in handlers:
        found.handlers.append(_described(handler))
        with _noting(found, f"{handler.name}: "):
            _find_model(handler, found.handlers[-1], found)
        if found.guarantees is not None:
            with _noting(found):
                check_capabilities(handler, found.guarantees)
        _find_parameters(bus, handler, found)
    _find_shared_groups(handlers, found)
    return found


async def _look_at_backend(bus: Bus, found: Findings, *, connect: bool) -> None:
    settings = bus.settings.backend
    scheme = urlsplit(settings.url).scheme
    found.guarantees = config.find_backend(scheme).capabilities(settings.options)
    if not connect and scheme != "memory":  # which lives here: there is nothing to reach
        return
    async with bus.open():
        found.guarantees = bus.backend.capabilities
        if isinstance(bus.backend, CreatesTopics):
            missing = await bus.backend.missing_topics([topic.name for topic in topics_of(bus)])
            if missing:
                found.problems.append(
                    f"not there yet: the topics {', '.join(missing)}; eventml topics create creates them"
                )


def _described(handler: Handler) -> HandlerFinding:
    options = handler.options
    return HandlerFinding(
        name=handler.name,
        reads=handler.topic,
        writes=handler.to,
        group=options.group,
        start=options.start,
        batched=handler.batched,
        frame=handler.frame.library if handler.frame is not None else None,
        max_batch=handler.max_batch,
        max_wait=options.max_wait,
        ordered=options.ordered,
        timeout=options.timeout,
    )


def _find_model(handler: Handler, finding: HandlerFinding, found: Findings) -> None:
    if handler.model is None:
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = models.load(handler.model, name=handler.name)
    finding.model = ModelFinding(model.name, model.version)
    found.warnings += [
        f"{handler.name}: {warning.message}"
        for warning in caught
        if issubclass(warning.category, UserWarning)
    ]


def _find_parameters(bus: Bus, handler: Handler, found: Findings) -> None:
    for name in handler.wants:
        if name != "model" and name not in bus.lifespans:
            found.problems.append(
                f"{handler.name}: nothing gives it {name!r}; define a lifespan of that name with "
                "@bus.lifespan, or give the parameter a default"
            )


def _find_shared_groups(handlers: list[Handler], found: Findings) -> None:
    readers: dict[tuple[str, str], list[str]] = {}
    for handler in handlers:
        readers.setdefault((handler.topic, handler.options.group), []).append(handler.name)
    for (topic, group), names in readers.items():
        if len(names) > 1:
            found.warnings.append(
                f"{' and '.join(names)} read {topic} in one group, {group}: "
                "each event goes to one of them only"
            )


@contextmanager
def _noting(found: Findings, where: str = "") -> Iterator[None]:
    """Make a problem of an error of eventml's, and go on."""
    try:
        yield
    except Exception as exc:
        reasons = list(leaves(exc))
        if not all(isinstance(reason, EventMLError) for reason in reasons):
            raise
        found.problems += [
            f"{where}{reason}" for reason in reasons if f"{where}{reason}" not in found.problems
        ]
