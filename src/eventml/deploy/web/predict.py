"""`POST /predict/<predictor>`: an event or a list of events in, the prediction or the problem of each out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from eventml import config
from eventml.backends.base import Completion
from eventml.bus import Bus
from eventml.deploy.web.http_messages import (
    EventDecoder,
    Problem,
    encode,
    read_events,
    send_response,
    trace_context,
    unavailable,
)
from eventml.deploy.web.request_backend import RequestEvent, RequestQueue
from eventml.errors import ConfigError, FullError, HandlerTimeoutError, Reject, StaleError, UnavailableError
from eventml.handlers import Handler
from eventml.records import MODEL, MODEL_VERSION, NO_HEADERS
from eventml.runtime import DeadLetterCompletion, LoadedHandler, answer_is_list, outputs_as_json

_SERVICE_AT_FAULT: Final = 500  # the first of these statuses


def served_predictors(bus: Bus, only: Sequence[str] = ()) -> list[Handler]:
    """Return the predictors named, by default all, with their options for a web service.

    A result that comes later than `web.timeout` helps no client, so that time also limits a call and the
    search for the bad events of a batch. A plain function of single events gets no such limit: it would cost
    a thread for each event.

    Raises:
        ConfigError: The bus has no predictors, or (`AppNotFoundError`) `only` names something else than one.
    """
    predictors = {
        name: bus.configured_handler(name)
        for name, handler in bus.handlers.items()
        if handler.outputs and not handler.champion
    }
    config.check_known(only, predictors, "predictor")
    if not predictors:
        raise ConfigError(f"bus {bus.name!r} has no predictor")
    return [_for_requests(predictors[name], bus.settings.web.timeout) for name in only or predictors]


def _for_requests(handler: Handler, limit: float) -> Handler:
    timeout = handler.options.timeout
    if handler.batched or handler.is_async:
        timeout = min(timeout or limit, limit)
    options = replace(
        handler.options,
        group=handler.name,
        retries=0,
        breaker_window=0,  # each client has its own events
        timeout=timeout,
        bisect_for=min(handler.options.bisect_for, limit),
        dedupe_window=None,  # a client that repeats a request gets an answer again
    )
    return replace(handler, options=options)


class PredictEndpoint:
    """The ASGI app of one predictor of a bus: it puts events into the predictor's queue, and waits.

    If it is traced, the events carry the trace context of their requests.
    """

    def __init__(self, bus: Bus, loaded: LoadedHandler, queue: RequestQueue, *, traced: bool) -> None:
        handler = loaded.handler
        self._loaded = loaded
        self._queue = queue
        self._several = handler.several
        topic = bus.declared_topic(handler.topic)
        self._decoder = EventDecoder(handler.event_type, topic.id_field, strict=topic.strict)
        self._limits = bus.settings.web
        self._traced = traced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or raise a `Problem` if it has no answer."""
        events, is_list, _ = await read_events(scope, receive, self._limits, self._decoder)
        start = time.perf_counter()
        results = await self._predict(events, trace_context(scope) if self._traced else NO_HEADERS)
        took = {"server-timing": f"predict;dur={(time.perf_counter() - start) * 1e3:.1f}"}
        if not is_list:
            [result] = results
            if isinstance(result, Problem):
                raise result
            await send_response(send, HTTPStatus.OK, result, headers=took)
            return
        problems = [result for result in results if isinstance(result, Problem)]
        statuses = {problem.details.status for problem in problems}
        if len(problems) == len(events) and len(statuses) == 1 and min(statuses) >= _SERVICE_AT_FAULT:
            raise problems[0]
        parts = await self._decoder.in_turns(_encode_item, events, results)
        status = HTTPStatus.MULTI_STATUS if problems else HTTPStatus.OK
        await send_response(send, status, b"[%b]" % b",".join(parts), headers=took)

    async def _predict(
        self, events: Sequence[RequestEvent], headers: Mapping[str, str]
    ) -> list[bytes | Problem]:
        valid = [event for event in events if not isinstance(event.event, Problem)]
        completions = iter(await self._complete(valid, headers) if valid else ())
        return [
            event.event if isinstance(event.event, Problem) else self._result(next(completions), event.id)
            for event in events
        ]

    async def _complete(
        self, events: Sequence[RequestEvent], headers: Mapping[str, str]
    ) -> Sequence[Completion]:
        try:
            request = self._queue.submit(events, headers)
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
        if isinstance(completion, DeadLetterCompletion):
            return _handler_failure(completion)
        outputs, model, id_ = completion.outputs, self._loaded.model, None
        name, version = (None, None) if model is None else (model.name, model.version)
        if outputs:  # they name the version that made them
            name, version = map(outputs[0].headers.get, (MODEL, MODEL_VERSION))
        value = b"null"
        if outputs or self._several:
            id_ = f"{event_id}/{self._loaded.handler.name}" + ("" if version is None else f"@{version}")
            value = outputs_as_json(outputs) if answer_is_list(outputs, event_id) else outputs[0].value
        fields = map(encode, (id_, event_id, name, version))
        return b'{"id":%b,"input":%b,"model":%b,"version":%b,"prediction":%b}' % (*fields, value)


def _encode_item(event: RequestEvent, result: bytes | Problem) -> bytes:
    if isinstance(result, Problem):
        return b'{"input":%b,"error":%b}' % (encode(event.id), encode(result.details))
    return result


def _handler_failure(dead_letter: DeadLetterCompletion) -> Problem:
    """Return the problem that a dead letter stands for.

    The message of a `Reject` is meant for the client. Those of its cause and of all other exceptions are not
    sent, as they may contain anything; the runtime has logged the class and the traceback.
    """
    error = dead_letter.error_type
    if issubclass(error, Reject):
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, dead_letter.message)
    if issubclass(error, UnavailableError):
        return unavailable("a service that the predictor needs is out of reach")
    if issubclass(error, StaleError):
        return unavailable("the event is older than max_age allows")
    if issubclass(error, HandlerTimeoutError):
        return Problem(HTTPStatus.GATEWAY_TIMEOUT, "the predictor exceeded its time limit")
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the predictor failed; see its log")
