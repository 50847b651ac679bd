"""`eventml doctor`: what a predictor costs, and how to run it."""

from typing import Annotated, Any

import anyio
import typer

from eventml.cli.buses import BackendOption, PredictorArgument, load_predictor
from eventml.cli.output import JsonOption, UsageError, format_table, print_json, print_message, print_text
from eventml.deploy.doctor import Advice, Examination, advise, examine

_BAR = 30  # characters of the longest bar


def doctor(
    predictor: PredictorArgument,
    *,
    rows: Annotated[
        str, typer.Option(metavar="FILE", help="Example events (Parquet, JSON lines); else the golden rows.")
    ] = "",
    rate: Annotated[
        float | None, typer.Option(metavar="N", min=0.001, help="How many workers carry N events a second?")
    ] = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what a predictor costs, and say how to run it.

    It loads the model and calls the predictor with the example events, repeated to fill batches of up to its
    max_batch. Nothing is published, and no broker is needed.
    """
    bus, handler = load_predictor(predictor, backend)
    rows = rows or handler.options.golden or ""
    if not rows:
        raise UsageError(
            f"{handler.name} has no golden rows; give example events: --rows FILE.parquet or FILE.jsonl"
        )

    def progress(step: str) -> None:
        if not as_json:
            print_message(f"{step} …")

    examination = anyio.run(examine, bus, handler, rows, progress)
    advice = advise(examination, rate)
    if as_json:
        print_json({"examination": examination, "advice": advice})
    else:
        print_text(_report(examination, advice))
    for warning in advice.warnings:
        print_message(warning, "warning")


def _report(found: Examination, advice: Advice) -> str:
    slowest = max(one.seconds / one.size for one in found.batches)
    rows: list[list[Any]] = []
    for one in found.batches:
        each = one.seconds / one.size
        rows.append(
            [
                f"{one.size:,}",
                f"{1000 * one.seconds:.2f} ms",
                f"{1e6 * each:,.1f} µs",
                _rate(one.rate),
                "█" * max(round(_BAR * each / slowest), 1),
            ]
        )
    columns = ["batch", "a call", "an event", "events/s", "time for an event"]
    table = "\n".join(format_table(columns, rows))
    workers = "" if advice.workers is None else f"\nworkers     {advice.workers}"
    return (
        f"{found.predictor}, model {' '.join(found.model)}: loaded in {found.load_seconds:.2f} s, "
        f"{found.load_memory / 2**20:.0f} MiB\n"
        f"{table}\n\n"
        f"max_batch   {advice.max_batch}\n"
        f"timeout     {advice.timeout:g}\n"
        f"events/s    {_rate(advice.rate)} for one worker on Redis, with a core and a half{workers}\n"
        f"{_compiled(found)}"
    )


def _compiled(found: Examination) -> str:
    if found.compiled is None:
        return ""
    times = {one.size: one.seconds for one in found.batches}
    gains = [
        f"{size:,}: {1e6 * times[size] / size:,.1f} → {1e6 * seconds / size:,.1f} µs"
        for size, seconds in found.compiled.seconds.items()
    ]
    texts = f"{', '.join(gains)} an event; largest difference {found.compiled.difference:.1g}"
    return f'compiled    {texts} (Artefact(..., compile="onnx"))\n'


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"  # noqa: PLR2004 - two digits
