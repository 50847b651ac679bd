"""The setting `tracing`, and what is loaded because of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eventml import Bus
from eventml.config import load
from eventml.errors import ConfigError, MissingExtraError


def test_it_is_a_boolean(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(environ={}).tracing is None
    assert load(environ={"EVENTML_TRACING": "false"}).tracing is False
    assert load(environ={}, overrides={"tracing": True}).tracing is True
    with pytest.raises(ConfigError, match="tracing"):
        load(environ={"EVENTML_TRACING": "perhaps"})


@pytest.mark.anyio
async def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "eventml.runtime.spans", raising=False)
    bus = Bus("rides")
    bus.configure(load(environ={}, overrides={"tracing": True}))
    with pytest.raises(MissingExtraError, match=r"eventml\[otel\]"):
        async with bus:
            pass


def test_where_nobody_has_configured_it_nothing_of_it_is_loaded() -> None:
    code = """
import sys, anyio
from eventml import Bus

async def main():
    bus = Bus("rides")
    @bus.predictor("a", to="b")
    def double(n: int) -> dict:
        return {"n": 2 * n}
    async with bus:
        await bus.publish("a", 1)
    await bus.run(until_idle=0.05)

anyio.run(main)
print(*(name for name in sys.modules if name.startswith(("opentelemetry", "eventml.runtime.spans"))))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert ran.stdout.split() == []


def test_an_app_may_configure_it_in_a_lifespan() -> None:
    code = """
import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from eventml import Bus

bus = Bus("rides")

@bus.lifespan
async def traced():
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name)))
    trace.set_tracer_provider(provider)
    yield 1

@bus.predictor("a", to="b")
def double(n: int, traced: int) -> dict:
    return {"n": 2 * n}

async def main():
    async with bus, bus.worker() as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await worker.ready.wait()
        await bus.publish("a", 1)
        await worker.idle(0.05)
        worker.stop()

anyio.run(main)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert ran.stdout == "process a"
