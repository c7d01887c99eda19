"""The way of a request for generation at the front: its key, its model, its runs, and what is sent of them. IO: aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from capamesh.protocol.errors import CapameshError, ShutOut
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.tasks import Task
from capamesh.router.access.keys import check_model
from capamesh.router.http.bodies import read_body
from capamesh.router.http.connections import site_of
from capamesh.router.http.event_stream import EVENTS, HEAD_S, DirectWriter, send_events, soon
from capamesh.router.http.exchange import (
    EXPLANATION_HEADER,
    NODE_HEADER,
    Inference,
    shortened,
)
from capamesh.router.http.key_check import key_of
from capamesh.router.http.openai_errors import error_event, openai_error
from capamesh.router.http.options import idempotency_key_of, options_of
from capamesh.router.requests.described_model import described
from capamesh.router.requests.generation.answer import GenerationAnswer
from capamesh.router.requests.generation.asked import MOST_BYTES, Asked
from capamesh.router.requests.generation.beginnings import beginnings_of
from capamesh.router.requests.generation.fields import object_of
from capamesh.router.requests.inference import Target
from capamesh.router.requests.invalid_parameter import InvalidParameter
from capamesh.router.requests.key_scope import within_scope
from capamesh.router.telemetry.tracing import parsed_traceparent

if TYPE_CHECKING:
    from capamesh.router.access.quotas import Lease
    from capamesh.router.requests.generation.written import Writer

LONGEST_S: Final = 600.0
"""Seconds that an answer may take where nothing else is set (guess: 6,000 tokens at 10 a second)."""
MOST_NODES_NAMED: Final = 8
RESUMED_HEADER: Final = "X-Capamesh-Resumed"
"""Says how often another node went on with a whole answer."""


@dataclass(frozen=True, slots=True)
class StreamForm:
    """The form in which a stream is sent."""

    media_type: str = EVENTS
    broken: Callable[[CapameshError], bytes] = error_event
    """Returns what a stream ends with that an error has broken off."""
    refused: Callable[[CapameshError], web.Response] = openai_error
    """Returns the answer that is an error."""


OPENAI_STREAM: Final = StreamForm()
NEWEST: Final = ModelVersion("")


class Generations:
    """The way that the requests of all routes for generation go."""

    def __init__(
        self,
        inference: Inference,
        *,
        arrival_s: float,
        longest_s: float = 0.0,
        wall_clock: Callable[[], float],
        draw_id: Callable[[], str],
    ) -> None:
        """A body may take `arrival_s` seconds to arrive, an answer `longest_s`; `draw_id` returns a text by chance.

        With 0 for `longest_s` an answer may take `LONGEST_S`, or as long as all requests if that is longer.
        """
        self._inference = inference
        self._longest_s = longest_s or max(LONGEST_S, inference.timeout_s)
        self._runs = replace(inference, meter=None, timeout_s=self._longest_s)
        """The services of the runs of a request, which its key is charged for as one."""
        self._arrival_s = arrival_s
        self.wall_clock = wall_clock
        """The clock, in seconds since 1970."""
        self.draw_id = draw_id
        self.most_bytes = inference.limits.max_json_answer_bytes
        """The most bytes of an answer that are held until its end."""

    async def values(self, request: web.Request) -> dict[str, Any]:
        """Return the fields of a request's body. Raises `TooLarge`, `InvalidRequest`."""
        limits = self._inference.limits
        most_bytes = min(MOST_BYTES, limits.max_json_bytes, limits.max_message_bytes)
        body = await read_body(request, arrival_s=self._arrival_s, most_bytes=most_bytes)
        return object_of(bytes(body))

    async def answer(
        self,
        request: web.Request,
        asked: Asked,
        writer: Writer,
        form: StreamForm = OPENAI_STREAM,
        version: ModelVersion = NEWEST,
    ) -> web.StreamResponse:
        """Send a request on its way, and what comes of it to its client. Raises a `CapameshError`."""
        model = ModelName(asked.model)
        try:
            target = self._target(request, asked, version)
            client = site_of(request.remote or "")
            if asked.is_streamed and self._inference.fleet.offer(model, version) is None:
                return await self._loaded(request, target, asked, writer, client, form)
            lease = await self._admitted(target, asked)
            answer = self._answer_of(target, asked, writer, lease, client)
        except CapameshError as error:
            self._inference.refused(model, error)
            raise
        try:
            answer.begin()
            if asked.is_streamed:
                return await self._stream(request, target, answer, form)
            await answer.until_ended()
            if answer.error is not None:
                return self._refused(target, answer, answer.error, form)
            body, _ = answer.taken()
            headers = self._told(target, answer)
            return web.Response(body=body, content_type="application/json", headers=headers)
        finally:
            answer.cancel()

    async def _stream(
        self, request: web.Request, target: Target, answer: GenerationAnswer, form: StreamForm
    ) -> web.StreamResponse:
        """Send an answer's events, or the error that comes soon in their place."""
        is_late = not await soon(answer.until_news())
        if answer.error is not None and not answer.has_text:
            return self._refused(target, answer, answer.error, form)
        return await send_events(
            request,
            self._told(target, answer),
            lambda response, direct: _write(answer, response, direct, form),
            most_s=self._longest_s + self._arrival_s,
            media_type=form.media_type,
            is_late=is_late,
        )

    async def _loaded(
        self,
        request: web.Request,
        target: Target,
        asked: Asked,
        writer: Writer,
        client: str,
        form: StreamForm,
    ) -> web.StreamResponse:
        """Send the stream of a model that has to be loaded for it: its head goes before that, if that takes long. Raises a `CapameshError`."""

        async def begun() -> GenerationAnswer:
            lease = await self._admitted(target, asked)
            answer = self._answer_of(target, asked, writer, lease, client)
            answer.begin()
            return answer

        async def write(response: web.StreamResponse, direct: DirectWriter) -> None:
            try:
                answer = await asyncio.shield(beginning)
            except CapameshError as error:
                self._inference.refused(target.model, error)
                await response.write(form.broken(error))
                await response.write_eof()
                return
            await _write(answer, response, direct, form)

        beginning = asyncio.ensure_future(begun())
        try:
            await asyncio.wait((beginning,), timeout=HEAD_S)
            if beginning.done():
                return await self._stream(request, target, beginning.result(), form)
            most_s = self._longest_s + self._arrival_s
            kind = form.media_type
            return await send_events(
                request, {}, write, most_s=most_s, media_type=kind, is_late=True
            )
        finally:
            beginning.cancel()
            with contextlib.suppress(CapameshError, asyncio.CancelledError):
                (await beginning).cancel()

    def _refused(
        self, target: Target, answer: GenerationAnswer, error: CapameshError, form: StreamForm
    ) -> web.Response:
        """Return an error as an answer, with the reasons if they are asked for."""
        refused = form.refused(error)
        refused.headers.update(self._reasons(target, answer))
        return refused

    def _told(self, target: Target, answer: GenerationAnswer) -> dict[str, str]:
        """Return the headers that tell who answers, how often another went on, and why it went there if that is asked for."""
        nodes = dict.fromkeys(outcome.peer for outcome in answer.outcomes)
        told = {NODE_HEADER: ",".join(list(nodes)[:MOST_NODES_NAMED])} if nodes else {}
        if answer.resumes:
            told[RESUMED_HEADER] = str(answer.resumes)
        return told | self._reasons(target, answer)

    def _reasons(self, target: Target, answer: GenerationAnswer) -> dict[str, str]:
        found = answer.explanation(self._inference.routing.clock()) if target.is_explained else None
        return {} if found is None else {EXPLANATION_HEADER: shortened(found.to_json())}

    def _target(self, request: web.Request, asked: Asked, version: ModelVersion) -> Target:
        options, is_explained = options_of(request.headers)
        key = key_of(request)
        if key is not None:
            check_model(key, asked.model)
        if not options.affinity and not options.policy:
            tenant = options.tenant if key is None else key.tenant
            beginnings = beginnings_of(asked.prompts[0], tenant)
            options = replace(options, affinity=asked.affinity, beginnings=beginnings)
        return Target(
            ModelName(asked.model),
            version,
            within_scope(options, key),
            is_explained,
            parsed_traceparent(request.headers.get("traceparent", "")),
            key=key,
            idempotency_key=idempotency_key_of(request.headers),
        )

    async def _admitted(self, target: Target, asked: Asked) -> Lease | None:
        """Return the leave of the request's key, once the model is there; None: it needs none.

        A row of such a model is a token: those of the prompt are reckoned by its bytes until its node has counted them. Raises
        `ModelNotFound`, `ModelUnavailable`, `TooManyRequests`, `InvalidParameter`.
        """
        inference = self._inference
        if inference.standing.shut_out:
            raise ShutOut(inference.standing.shut_out)
        tokens, size_bytes = asked.estimate()
        until_s = inference.routing.clock() + inference.timeout_s
        offer = await described(inference, target, until_s, rows=tokens, size_bytes=size_bytes)
        if offer.task is not Task.CHAT:
            is_for = f"is for {offer.task}" if offer.task else "takes tensors alone"
            raise InvalidParameter(
                "model",
                f"model {target.model!r} {is_for}, and texts are generated by models for chat",
            )
        meter = inference.meter
        if meter is None or target.key is None:
            return None
        return meter.lease(target.key, target.model, tokens, size_bytes)

    def _answer_of(
        self, target: Target, asked: Asked, writer: Writer, lease: Lease | None, client: str
    ) -> GenerationAnswer:
        try:
            return GenerationAnswer(self._runs, target, asked, writer, lease, client)
        except BaseException:
            if lease is not None:
                lease.settle()
            raise


async def _write(
    answer: GenerationAnswer, response: web.StreamResponse, direct: DirectWriter, form: StreamForm
) -> None:
    """Write an answer's events, as far as the client reads: only then a node sends more.

    Behind the first events go directly; here is written what a client that reads slowly has wait.
    """
    while answer.has_text or not answer.is_ended:
        text, parts = answer.taken()
        if text:
            await response.write(text)
            answer.send_by(direct.write)
        for part in parts:
            part.release()
        await answer.until_news()
    if answer.error is not None:
        await response.write(form.broken(answer.error))
    await response.write_eof()
