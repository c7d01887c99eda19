"""Triton's generate extension: plain JSON in, and out at once or as server-sent events. IO: aiohttp."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.tasks import Task
from capamesh.router.access.keys import Verb, check_request
from capamesh.router.http.bodies import read_body
from capamesh.router.http.connections import site_of
from capamesh.router.http.errors import error_response
from capamesh.router.http.event_stream import EVENTS, send_events, soon
from capamesh.router.http.exchange import NODE_HEADER, Inference
from capamesh.router.http.generate_body import (
    MOST_BYTES,
    parse_generate,
    read_generate,
    write_error,
    write_generate_in_steps,
)
from capamesh.router.http.generation_way import Generations, StreamForm
from capamesh.router.http.kept_replies import kept_headers
from capamesh.router.http.key_check import key_of
from capamesh.router.http.options import idempotency_key_of, options_of
from capamesh.router.http.route import Content, Pages, Route, json_of
from capamesh.router.http.schemas import headers, oip
from capamesh.router.requests.answer_parts import broken_off
from capamesh.router.requests.described_model import described
from capamesh.router.requests.generation.triton_texts import TextOutput, read_text_input
from capamesh.router.requests.inference import Target
from capamesh.router.requests.key_scope import within_scope
from capamesh.router.requests.parameters import priority_of, time_allowed_s
from capamesh.router.requests.slices import in_slices
from capamesh.router.requests.told_request import ToldRequest
from capamesh.router.telemetry.tracing import parsed_traceparent

if TYPE_CHECKING:
    from capamesh.protocol.adverts import ModelOffer
    from capamesh.protocol.oip import InferRequest
    from capamesh.router.requests.call import Outcome, Part

WRITE_BYTES: Final = 2**16
"""The events that are written at once, where so many wait (guess: what a connection takes before it has to be waited for)."""


class GenerateApi(Pages):
    """The routes of the extension."""

    def __init__(self, inference: Inference, *, arrival_s: float, generations: Generations) -> None:
        """A body may take `arrival_s` seconds to arrive; requests of models for chat go by `generations`."""
        self._inference = inference
        self._arrival_s = arrival_s
        self._generations = generations

    @override
    def routes(self) -> list[Route]:
        kinds = (
            ("generate", self.generate, Content(oip.Generate)),
            ("generate_stream", self.stream, Content(str, EVENTS)),
        )
        return [
            Route(
                "POST",
                f"{model}/{name}",
                handler,
                (Verb.INFER,),
                (answer,),
                body=json_of(oip.Generate),
                headers=headers.GENERATION,
                errors=(400, 409, 429, 500, 502, 503, 504),
            )
            for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
            for name, handler, answer in kinds
        ]

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Run one inference on plain JSON values; a model that answers in parts answers with the last.

        A model for chat goes on with `text_input`, as `parameters` say, and answers `text_output`.
        """
        if (offer := self._chat_of(request)) is not None:
            return await self._text_of(request, offer, is_streamed=False)
        generation = await self._begin(request, takes_parts=False)
        try:
            await generation.until_news()
            if generation.error is not None:
                return error_response(generation.error)
            text = await generation.next_text()
            return web.Response(
                body=text, content_type="application/json", headers=generation.headers
            )
        finally:
            generation.cancel()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Run one inference on plain JSON values, and send each part of the answer as a server-sent event.

        What goes wrong before the first part has a status; after it the last event has an `error` and the number of `parts`.
        """
        if (offer := self._chat_of(request)) is not None:
            return await self._text_of(request, offer, is_streamed=True)
        generation = await self._begin(request, takes_parts=True)
        try:
            is_late = not await soon(generation.until_news())
            if generation.error is not None and not generation.waiting:
                return error_response(generation.error)
            # the answer ends in time: what is left is for the client to take
            return await send_events(
                request,
                generation.headers,
                lambda response, _: self._write(generation, response),
                most_s=self._inference.timeout_s + self._arrival_s,
                is_late=is_late,
            )
        finally:
            generation.cancel()

    def _chat_of(self, request: web.Request) -> ModelOffer | None:
        """Return what is advertised of a request's model if that is for chat; None: it is not, or is away."""
        model, version = _named(request)
        offer = self._inference.fleet.offer(model, version)
        return offer if offer is not None and offer.task is Task.CHAT else None

    async def _text_of(
        self, request: web.Request, offer: ModelOffer, *, is_streamed: bool
    ) -> web.StreamResponse:
        """Have a text gone on with."""
        way = self._generations
        values = await way.values(request)
        model, version = _named(request)
        asked = read_text_input(values, model, is_streamed=is_streamed)
        writer = TextOutput(asked, values, offer.version, way.most_bytes)
        return await way.answer(request, asked, writer, _TEXT_STREAM, version)

    async def _write(self, generation: Generation, response: web.StreamResponse) -> None:
        """Write all events, as far as the client reads: only then a node sends more."""
        while not (generation.is_ended and not generation.waiting):
            await generation.until_news()
            events = bytearray()
            written: list[Part] = []
            while generation.waiting and len(events) < WRITE_BYTES:
                _, part = generation.waiting[0]
                try:
                    events += b"data: %b\n\n" % await generation.next_text()
                except CapameshError:
                    break
                if part is not None:
                    written.append(part)
            if events:
                await response.write(events)
            for one in written:
                one.release()
        if generation.error is not None:
            await response.write(_broken(generation.error))
        await response.write_eof()

    async def _begin(self, request: web.Request, *, takes_parts: bool) -> Generation:
        """Read a request and send it on its way; wait before that for a model that is loaded for it. Raises a `CapameshError`."""
        inference = self._inference
        limits = inference.limits
        most_bytes = min(MOST_BYTES, limits.max_json_bytes, limits.max_message_bytes)
        body = await read_body(request, arrival_s=self._arrival_s, most_bytes=most_bytes)
        model, version = _named(request)
        try:
            options, is_explained = options_of(request.headers)
            key = key_of(request)
            options = within_scope(options, key)
            parent = parsed_traceparent(request.headers.get("traceparent", ""))
            target = Target(
                model,
                version,
                options,
                is_explained,
                parent,
                key=key,
                idempotency_key=idempotency_key_of(request.headers),
            )
            generation = Generation(inference, target, site_of(request.remote or ""))
            given = parse_generate(body)
            allowed_s = time_allowed_s(given.parameters, inference.timeout_s)
            if inference.ring.is_required:
                check_request(key, priority_of(given.parameters))
            until_s = inference.routing.clock() + allowed_s
            offer = await described(inference, target, until_s, size_bytes=len(body))
            asked = read_generate(given, model, version, offer.inputs, limits)
        except CapameshError as error:
            inference.refused(model, error)
            raise
        generation.submit(asked, takes_parts=takes_parts)
        return generation


def _named(request: web.Request) -> tuple[ModelName, ModelVersion]:
    """Return the model and version in a request's path; "": it names none."""
    found = request.match_info
    return ModelName(found["model"]), ModelVersion(found.get("version", ""))


def _broken(error: CapameshError) -> bytes:
    return b"data: %b\n\n" % write_error(error)


_TEXT_STREAM: Final = StreamForm(broken=_broken, refused=error_response)


class Generation:
    """One request, whose answer or its parts wait for who writes them: no more wait than are not released."""

    __slots__ = (
        "_asked",
        "_inference",
        "_model",
        "_news",
        "_request",
        "_written",
        "error",
        "headers",
        "is_ended",
        "waiting",
    )

    def __init__(self, inference: Inference, target: Target, client: str) -> None:
        self._inference = inference
        self._asked: InferRequest | None = None
        self._model = target.model
        self._request = ToldRequest(inference, target, self._ended, self._took, client=client)
        self._news = asyncio.Event()
        self.waiting: deque[tuple[Outcome, Part | None]] = deque()
        """The pieces that wait to be written: parts, each as an answer and as what is to be released, and the last, for which that is None."""
        self._written = 0
        """The parts that were written."""
        self.error: CapameshError | None = None
        self.is_ended = False
        self.headers: dict[str, str] = {}
        """The headers that tell who answers, and whether that was kept."""

    def submit(self, asked: InferRequest, *, takes_parts: bool) -> None:
        """Send the request on its way; the answer comes whole unless it `takes_parts`."""
        self._asked = asked
        self._request.submit(asked, takes_parts=takes_parts)

    def cancel(self) -> None:
        """Withdraw the request. Nothing happens when it is over."""
        self._request.cancel()

    async def until_news(self) -> None:
        """Wait until something waits to be written or the answer has ended."""
        while not self.waiting and not self.is_ended:
            self._news.clear()
            await self._news.wait()

    async def next_text(self) -> bytes:
        """Return the text of what has waited for longest, which waits no more.

        Raises a `CapameshError` where it has none: the answer has ended then, with that as its `error`.
        """
        outcome, _ = self.waiting.popleft()
        asked, inference = self._asked, self._inference
        assert asked is not None  # noqa: S101 - it was sent before anything came
        steps = write_generate_in_steps(asked, outcome.answer, self._model, inference.limits)
        try:
            text = await in_slices(inference.slices, steps, self._model)
        except CapameshError as error:  # JSON cannot hold it
            self.waiting.clear()
            self._request.break_off(error)
            self.is_ended = True
            self.error = broken_off(error, self._written) if self._written else error
            raise self.error from None
        self._written += 1
        return text

    def _took(self, part: Part) -> None:
        self._take(part.outcome, part)

    def _ended(self, outcome: Outcome | CapameshError) -> None:
        if isinstance(outcome, CapameshError):
            self.error = outcome
        else:
            self._take(outcome, None)
        self.is_ended = True
        self._news.set()

    def _take(self, outcome: Outcome, part: Part | None) -> None:
        entry = outcome.entry
        kept = (
            {}
            if entry is None
            else kept_headers(entry.word, self._inference.routing.clock() - entry.stored_s)
        )
        self.headers = {NODE_HEADER: outcome.peer, **kept}
        self.waiting.append((outcome, part))
        self._news.set()
