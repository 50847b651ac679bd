"""`eventml canary`: the share of a canary while it runs, and whether it is worse than the model."""

from secrets import token_hex
from typing import Annotated, Any

import anyio
import typer

from eventml.cli.buses import BackendOption, PredictorArgument, load_predictor, open_shared
from eventml.cli.output import UsageError, print_json
from eventml.codec import Decoder
from eventml.runtime import CanaryRecord, CanaryTrial, canary_message, canary_topic


def canary(
    predictor: PredictorArgument,
    *,
    share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Set its share of the keys: 1 promotes it, 0 rolls it back."),
    ] = None,
    backend: BackendOption = None,
) -> None:
    """Show a predictor's canary as JSON, or set its share of the keys.

    It is set on all workers, also on those that start later, and begins a new trial.
    """
    bus, handler = load_predictor(predictor, backend)
    options, topic = handler.canary, canary_topic(handler)
    if options is None:
        raise UsageError(f"{handler.name} has no canary; add [consumer.{handler.name}.canary]")

    async def run() -> dict[str, Any]:
        async with open_shared(bus):
            read = Decoder(CanaryRecord).decode([one async for one in bus.read(topic, until="end")])
            records = [record for record in read if isinstance(record, CanaryRecord)]
            # The last reports of an older version come from workers that a rolling restart stops.
            versions = {record.worker: record.version for record in records if record.worker}
            if not versions:
                raise UsageError(f"no worker has started with the canary of {handler.name}; start one first")
            *_, version = versions.values()  # of the worker whose first report is the newest
            if share is not None:
                records.append(CanaryRecord(version=version, trial=token_hex(6), share=share))
                await bus.backend.publish([canary_message(topic, records[-1])])
        start = CanaryRecord(version=version, share=options.share)
        trial = CanaryTrial(start, rolls_back=options.on_worse == "rollback")
        for record in records:
            trial.apply(record)
        found = {"version": version, "share": trial.share, "worse": trial.worse}
        return found | {"observations": trial.observations}

    print_json(anyio.run(run))
