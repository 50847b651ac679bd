"""The web service follows its model too: an answer names the version that made it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.model_updates.test_model_updates import POLL, adding
from tests.web.conftest import client_of, entered

if TYPE_CHECKING:
    from tests.model_updates.conftest import ModelFile

pytestmark = pytest.mark.anyio


async def test_an_answer_names_the_version_that_made_it(model_file: ModelFile) -> None:
    [first] = model_file.adds
    async with AsyncExitStack() as stack:
        app: Any = adding(model_file.path).asgi()
        client = await stack.enter_async_context(client_of(await entered(stack, app)))

        async def answer() -> tuple[float, str]:
            body = (await client.post("/predict/add", json={"x": 1.0})).json()
            assert body["id"].endswith(f"/add@{body['version']}")
            return body["prediction"]["total"], body["version"]

        assert await answer() == (2.0, first)
        second = model_file.replace(10.0)
        with anyio.fail_after(30):
            while await answer() != (11.0, second):
                await anyio.sleep(POLL)
        assert f'version="{second}"' in (await client.get("/metrics")).text
