"""OpenAI's routes for generation: the next message of a chat, the continuation of texts, responses. IO: aiohttp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from typing_extensions import override

from capamesh.router.access.keys import Verb
from capamesh.router.http.event_stream import EVENTS
from capamesh.router.http.route import Content, Pages, Route, json_of
from capamesh.router.http.schemas import openai_generation as schemas
from capamesh.router.http.schemas.headers import CHAT
from capamesh.router.requests.generation import bodies
from capamesh.router.requests.generation.chat_answer import ChatStream, ChatWhole
from capamesh.router.requests.generation.chat_request import read_chat
from capamesh.router.requests.generation.completion_answer import CompletionStream, CompletionWhole
from capamesh.router.requests.generation.completion_request import read_completion
from capamesh.router.requests.generation.responses_answer import ResponseWriter
from capamesh.router.requests.generation.responses_request import read_response

if TYPE_CHECKING:
    from capamesh.router.http.generation_way import Generations
    from capamesh.router.requests.generation.written import Writer


class GenerationsApi(Pages):
    """`POST /v1/chat/completions`, `/v1/completions` and `/v1/responses`."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    @override
    def routes(self) -> list[Route]:
        kinds = (
            ("/v1/chat/completions", self.chat, bodies.ChatRequest, schemas.Chat),
            ("/v1/completions", self.completions, bodies.CompletionRequest, schemas.Completion),
            ("/v1/responses", self.responses, bodies.ResponseRequest, schemas.Response),
        )
        return [
            Route(
                "POST",
                path,
                handler,
                (Verb.INFER,),
                (Content(answer), Content(str, EVENTS)),
                body=json_of(body),
                headers=CHAT,
                errors=(400, 404, 409, 429, 500, 502, 504),
                is_openai=True,
            )
            for path, handler, body, answer in kinds
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Return the next message of a chat, as OpenAI's route of that name does: whole, or as it comes.

        With `stream` each piece is a server-sent event. What goes wrong before the first has a status; after it the last event
        has an `error`, and no `[DONE]` follows. Where a node is lost, another goes on with the answer.
        """
        way = self._generations
        asked = read_chat(await way.values(request))
        name, now_s = f"chatcmpl-{way.draw_id()}", int(way.wall_clock())
        writer: Writer
        if asked.is_streamed:
            writer = ChatStream(asked, name, now_s, way.draw_id)
        else:
            writer = ChatWhole(asked, name, now_s, way.draw_id, way.most_bytes)
        return await way.answer(request, asked, writer)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Return the continuation of one text or several, as OpenAI's route of that name does: whole, or as it comes."""
        way = self._generations
        asked = read_completion(await way.values(request))
        name, now_s = f"cmpl-{way.draw_id()}", int(way.wall_clock())
        writer: Writer
        if asked.is_streamed:
            writer = CompletionStream(asked, name, now_s)
        else:
            writer = CompletionWhole(asked, name, now_s, way.most_bytes)
        return await way.answer(request, asked, writer)

    async def responses(self, request: web.Request) -> web.StreamResponse:
        """Return a response, as OpenAI's route of that name does, of texts and calls of functions; nothing is stored."""
        way = self._generations
        asked = read_response(await way.values(request))
        writer = ResponseWriter(asked, way.draw_id, int(way.wall_clock()), way.most_bytes)
        return await way.answer(request, asked, writer)
