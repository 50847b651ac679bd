"""`POST /predict/<predictor>`: events in, each one's own answer or error out."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from eventml.deploy.web.answers import encode, send_json
from eventml.deploy.web.identifying import Identifier
from eventml.deploy.web.problems import Problem, failure, letter, overloaded
from eventml.deploy.web.requests import ID, header, read_events, trace_context
from eventml.errors import FullError
from eventml.records import NO_HEADERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import Receive, Scope, Send

    from eventml.backends.base import Completion
    from eventml.config import WebSettings
    from eventml.deploy.web.desk import Queue
    from eventml.runtime import LoadedHandler

log = logging.getLogger("eventml")


class Predicting:
    """One predictor's requests. It is called as an ASGI app.

    Args:
        job: The predictor and its model.
        queue: Where its events wait.
        limits: What a request may ask.
        id_field: The field of an event that is its id.
        traced: Whether its events go on with the trace that the request is part of.
    """

    def __init__(
        self, job: LoadedHandler, queue: Queue, limits: WebSettings, id_field: str | None, *, traced: bool
    ) -> None:
        self._traced = traced
        self._name = job.handler.name
        self._queue = queue
        self._limits = limits
        self._identify = Identifier(id_field, job.handler.event_type)
        self._decoder = msgspec.json.Decoder(job.handler.event_type)
        model = None if job.model is None else (job.model.name, job.model.version)
        name, version = model or (None, None)
        self._about = b',"model":%b,"version":%b,"prediction":' % (encode(name), encode(version))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_events(scope, receive, self._limits)
        said = header(scope, ID)
        headers = trace_context(scope) if self._traced else NO_HEADERS
        if not body.many:
            ids = [self._identify(body.events[0], said)]
            [completion] = await self._ask(body.events, ids, headers)
            await send_json(send, HTTPStatus.OK, self._answer(completion, ids[0], body.events[0]))
        elif said is not None:
            raise Problem(
                HTTPStatus.BAD_REQUEST, "ce-id names one event; a list's events have ids of their own"
            )
        elif not body.events:
            await send_json(send, HTTPStatus.OK, b"[]")
        else:
            await self._answer_many(body.events, headers, send)

    async def _answer_many(self, events: Sequence[bytes], headers: Mapping[str, str], send: Send) -> None:
        ids = [self._identify(event) for event in events]
        parts, failed = [], []
        for completion, id_, event in zip(await self._ask(events, ids, headers), ids, events, strict=True):
            try:
                parts.append(self._answer(completion, id_, event))
            except Problem as problem:
                failed.append(problem)
                parts.append(b'{"input":%b,"error":%b}' % (encode(id_), encode(problem.details)))
        ours = [problem for problem in failed if problem.reason]
        if len(ours) == len(events) and len({problem.details.status for problem in ours}) == 1:
            raise ours[0]
        if ours:
            log.warning(
                "%s: no answer to %d of %d events: %s",
                self._name,
                len(ours),
                len(events),
                ours[0].reason,
            )
        status = HTTPStatus.MULTI_STATUS if failed else HTTPStatus.OK
        await send_json(send, status, b"[%b]" % b",".join(parts))

    async def _ask(
        self, events: Sequence[bytes], ids: Sequence[str], headers: Mapping[str, str]
    ) -> Sequence[Completion]:
        try:
            asked = self._queue.ask(events, ids, headers)
        except FullError as exc:
            raise overloaded(str(exc)) from exc
        timer = asyncio.get_running_loop().call_later(self._limits.timeout, asked.expire)
        try:
            await asked.answered
        except TimeoutError:
            raise Problem(
                HTTPStatus.GATEWAY_TIMEOUT, f"no answer within {self._limits.timeout:g} s (web.timeout)"
            ) from None
        finally:
            timer.cancel()
            if asked.left:
                self._queue.forget(asked)
        return asked.results  # type: ignore[return-value] # all are known now

    def _answer(self, completion: Completion, id_: str, event: bytes) -> bytes:
        outputs = completion.outputs
        failed = letter(completion)
        if failed is not None:
            raise failure(failed, event, self._decoder)
        if not outputs:
            return b'{"id":null,"input":%b%bnull}' % (encode(id_), self._about)
        [record] = outputs
        return b'{"id":%b,"input":%b%b%b}' % (encode(record.id), encode(id_), self._about, record.value)
