"""`eventml lag`: how many events each consumer group has not completed."""

from functools import partial

import anyio
import msgspec
import typer

from eventml.bus import Bus
from eventml.cli.buses import BackendOption, BusArgument, backend_url, load_bus, require_shared
from eventml.cli.output import JsonOption, handle_errors, print_table


class GroupLag(msgspec.Struct):
    """The lag of one handler's consumer group, in all and by partition; None if the group does not exist."""

    handler: str
    group: str
    topic: str
    lag: int | None
    partitions: dict[int, int] | None


class BusLag(msgspec.Struct):
    """The lag of every handler of a bus."""

    bus: str
    backend: str
    groups: list[GroupLag]


@handle_errors()
def lag(bus: BusArgument, backend: BackendOption = None, as_json: JsonOption = False) -> None:
    """Show the lag of each consumer group.

    The lag is the number of events that the group has not completed, those in flight included, by partition.
    The command joins no group and changes nothing.
    """
    found = anyio.run(partial(_read_lag, load_bus(bus, backend)))
    if as_json:
        typer.echo(msgspec.json.encode(found))
    else:
        print_table(
            ["handler", "group", "topic", "partition", "lag"],
            [row for group in found.groups for row in _rows(group)],
        )


async def _read_lag(bus: Bus) -> BusLag:
    groups = []
    async with bus.open():
        require_shared(bus)
        for handler in map(bus.configured_handler, bus.handlers):
            group = handler.options.group
            found = await bus.backend.lag(handler.topic, group=group)
            by_partition = None if found is None else dict(sorted(found.items()))
            total = None if found is None else sum(found.values())
            groups.append(GroupLag(handler.name, group, handler.topic, total, by_partition))
    return BusLag(bus.name, backend_url(bus), groups)


def _rows(group: GroupLag) -> list[list[str]]:
    names = [group.handler, group.group, group.topic]
    if group.partitions is None:
        return [[*names, "-", "unknown"]]
    return [
        *([*names, str(partition), str(count)] for partition, count in group.partitions.items()),
        [*names, "all", str(group.lag)],
    ]
