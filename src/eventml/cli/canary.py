"""`eventml canary`: the share of a canary while it runs, and whether it is worse than the model."""

from secrets import token_hex
from typing import Annotated

import anyio
import typer

from eventml.cli.buses import BackendOption, PredictorArgument, load_predictor, open_shared
from eventml.cli.output import JsonOption, UsageError, print_json, print_text
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
    as_json: JsonOption = False,
) -> None:
    """Show the canary of a predictor, or set its share on all workers.

    A share that is set holds until another one is, also for workers that start later, and begins a new trial.
    """
    bus, handler = load_predictor(predictor, backend)
    options, topic = handler.canary, canary_topic(handler)
    if options is None:
        raise UsageError(f"{handler.name} has no canary; add [consumer.{handler.name}.canary]")

    async def run() -> tuple[str, CanaryTrial]:
        async with open_shared(bus):
            deliveries = [delivery async for delivery in bus.read(topic, until="end")]
            decoded = Decoder(CanaryRecord).decode(deliveries)
            records = [one for one in decoded if isinstance(one, CanaryRecord)]
            version = next((one.version for one in reversed(records) if one.worker), None)
            if version is None:
                raise UsageError(f"no worker has run with the canary of {handler.name}; start one first")
            if share is not None:
                records.append(CanaryRecord(version=version, trial=token_hex(6), share=share))
                await bus.backend.publish([canary_message(topic, records[-1])])
            start = CanaryRecord(version=version, share=options.share)
            trial = CanaryTrial(start, rolls_back=options.on_worse == "rollback")
            for record in records:
                trial.apply(record)
            return version, trial

    version, trial = anyio.run(run)
    numbers = trial.observations
    if as_json:
        state = {"version": version, "share": trial.share, "worse": trial.worse, "observations": numbers}
        print_json(state)
        return
    print_text(f"{handler.name}: its canary {version} answers for {trial.share:g} of the keys")
    observed = ", ".join(f"{number} of {name}" for name, number in numbers.items())
    print_text(
        f"it is worse: {trial.worse}" if trial.worse else f"it is not found to be worse, by {observed}"
    )
