"""The trace of a request includes the call that answers it, whatever the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from opentelemetry.trace import format_trace_id

from tests.tracing.conftest import spans  # noqa: F401 - a fixture

if TYPE_CHECKING:
    import httpx

    from tests.tracing.conftest import RecordedSpans
    from tests.web.conftest import EnterApp

pytestmark = pytest.mark.anyio

TRACES = ["0af7651916cd43dd8448eb211c80319c", "1111111111111111111111111111111c"]


async def post_in(client: httpx.AsyncClient, trace: str) -> None:
    answer = await client.post(
        "/predict/double",
        json={"name": trace, "number": 2.0},
        headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
    )
    assert answer.status_code == 200, answer.text


async def test_a_call_is_part_of_its_requests_traces(
    spans: RecordedSpans,  # noqa: F811 - the fixture
    enter_app: EnterApp,
) -> None:
    client = await enter_app()
    async with anyio.create_task_group() as tasks:
        for trace in TRACES:
            tasks.start_soon(post_in, client, trace)
    traces = {
        format_trace_id(context.trace_id)
        for span in spans.named("process numbers")
        for context in (span.parent, *(link.context for link in span.links))
        if context is not None
    }
    assert traces == set(TRACES)
