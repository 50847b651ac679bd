"""`eventml lag`: how much each consumer group has yet to finish."""

from functools import partial

import anyio
import msgspec
import typer

from eventml.bus import Bus
from eventml.cli.buses import app_bus, require_shared, url_of
from eventml.cli.options import BackendOption, BusArgument, JsonOption
from eventml.cli.reporting import reporting
from eventml.cli.tables import show_table


class GroupLag(msgspec.Struct):
    """What one handler's group has not finished; None is unknown, as where there is no such group."""

    handler: str
    group: str
    topic: str
    lag: int | None
    partitions: dict[int, int] | None


class Lags(msgspec.Struct):
    """The lag of all the handlers of a bus."""

    bus: str
    backend: str
    groups: list[GroupLag]


@reporting()
def lag(bus: BusArgument, backend: BackendOption = None, as_json: JsonOption = False) -> None:
    """Show what the groups have not finished.

    By handler, topic and partition.

    Nothing is joined or moved by looking.
    """
    lags = anyio.run(partial(_read, app_bus(bus, backend)))
    if as_json:
        typer.echo(msgspec.json.encode(lags))
    else:
        show_table(
            ["handler", "group", "topic", "partition", "lag"],
            [row for group in lags.groups for row in _rows(group)],
        )


async def _read(bus: Bus) -> Lags:
    groups = []
    async with bus.open():
        require_shared(bus)
        for handler in map(bus.configured_handler, bus.handlers):
            group = handler.options.group
            found = await bus.backend.lag(handler.topic, group=group)
            by_partition = None if found is None else dict(sorted(found.items()))
            total = None if found is None else sum(found.values())
            groups.append(GroupLag(handler.name, group, handler.topic, total, by_partition))
    return Lags(bus.name, url_of(bus), groups)


def _rows(group: GroupLag) -> list[list[str]]:
    where = [group.handler, group.group, group.topic]
    if group.partitions is None:
        return [[*where, "-", "unknown"]]
    return [
        *([*where, str(partition), str(left)] for partition, left in group.partitions.items()),
        [*where, "all", str(group.lag)],
    ]
