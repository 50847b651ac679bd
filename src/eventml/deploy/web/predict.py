"""`POST /predict/<predictor>`: an event or a list of events in, the prediction or the problem of each out."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from eventml.deploy.web.request_backend import RequestQueue
from eventml.deploy.web.requests import EventDecoder, read_body, trace_context
from eventml.deploy.web.responses import Problem, encode, handler_failure, send_json, unavailable
from eventml.errors import FullError
from eventml.records import NO_HEADERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import Receive, Scope, Send

    from eventml.backends.base import Completion
    from eventml.config import WebSettings
    from eventml.runtime import LoadedHandler

log = logging.getLogger("eventml")


class PredictEndpoint:
    """The ASGI app of one predictor.

    Args:
        loaded: The predictor and its model.
        queue: The queue of its events.
        decoder: Decoder of its events.
        limits: Limits of a request.
        traced: Whether its events carry the trace context of their requests.
    """

    def __init__(
        self,
        loaded: LoadedHandler,
        queue: RequestQueue,
        decoder: EventDecoder,
        limits: WebSettings,
        *,
        traced: bool,
    ) -> None:
        self._name = loaded.handler.name
        self._queue = queue
        self._decoder = decoder
        self._limits = limits
        self._traced = traced
        model, version = (None, None) if loaded.model is None else (loaded.model.name, loaded.model.version)
        self._model_fields = b',"model":%b,"version":%b,"prediction":' % (encode(model), encode(version))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            Problem: the request has no answer.
        """
        body = await read_body(scope, receive, self._limits)
        headers = trace_context(scope) if self._traced else NO_HEADERS
        if body.is_list:
            status, answer = await self._answer_list(body.events, headers)
            await send_json(send, status, answer)
            return
        event = self._decoder.decode(body.events[0])
        event_id = body.id or self._decoder.id_of(event)
        [completion] = await self._predict(body.events, [event], [event_id], headers)
        result = self._result(completion, event_id)
        if isinstance(result, Problem):
            raise result
        await send_json(send, HTTPStatus.OK, result)

    async def _answer_list(
        self, values: Sequence[bytes], headers: Mapping[str, str]
    ) -> tuple[HTTPStatus, bytes]:
        decoded = list(map(self._decode, values))  # of each event: its id, and the event or its problem
        valid = [index for index, (_, event) in enumerate(decoded) if not isinstance(event, Problem)]
        ids, events = [decoded[index][0] for index in valid], [decoded[index][1] for index in valid]
        completions = iter(await self._predict([values[index] for index in valid], events, ids, headers))
        results = [
            event if isinstance(event, Problem) else self._result(next(completions), id_)
            for id_, event in decoded
        ]
        problems = [result for result in results if isinstance(result, Problem)]
        at_fault = [problem for problem in problems if problem.reason]  # those that are the service's fault
        if at_fault and len(at_fault) == len(values) and len({one.details.status for one in at_fault}) == 1:
            raise at_fault[0]
        if at_fault:
            counts = len(at_fault), len(values)
            log.warning("%s: no prediction for %d of %d events: %s", self._name, *counts, at_fault[0].reason)
        parts = [
            b'{"input":%b,"error":%b}' % (encode(id_), encode(result.details))
            if isinstance(result, Problem)
            else result
            for (id_, _), result in zip(decoded, results, strict=True)
        ]
        return HTTPStatus.MULTI_STATUS if problems else HTTPStatus.OK, b"[%b]" % b",".join(parts)

    def _decode(self, value: bytes) -> tuple[str, Any]:
        try:
            event = self._decoder.decode(value)
        except Problem as problem:
            return self._decoder.id_of_invalid(value), problem
        return self._decoder.id_of(event), event

    async def _predict(
        self, values: Sequence[bytes], events: Sequence[Any], ids: Sequence[str], headers: Mapping[str, str]
    ) -> Sequence[Completion]:
        if not values:
            return []
        try:
            request = self._queue.submit(values, events, ids, headers)
        except FullError as exc:
            raise unavailable(str(exc)) from exc
        try:
            async with asyncio.timeout(self._limits.timeout):
                await request.done
        except TimeoutError:
            raise Problem(
                HTTPStatus.GATEWAY_TIMEOUT, f"no prediction within {self._limits.timeout:g} s (web.timeout)"
            ) from None
        finally:
            if request.unfinished:
                self._queue.cancel(request)
        return request.completions  # type: ignore[return-value] # there is one for each event now

    def _result(self, completion: Completion, event_id: str) -> bytes | Problem:
        if completion.dead_letter:
            return handler_failure(completion.outputs[0])
        if not completion.outputs:
            return b'{"id":null,"input":%b%bnull}' % (encode(event_id), self._model_fields)
        [record] = completion.outputs
        ids = encode(record.id), encode(event_id)
        return b'{"id":%b,"input":%b%b%b}' % (*ids, self._model_fields, record.value)
