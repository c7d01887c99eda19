"""Ollama's routes, for its clients: chats, texts, the models for them. IO: aiohttp."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.tasks import Task
from capamesh.router.access.keys import Verb
from capamesh.router.http.errors import error_response
from capamesh.router.http.generation_way import StreamForm
from capamesh.router.http.key_check import key_of
from capamesh.router.http.route import ANY_KEY, Content, Pages, Route, json_of
from capamesh.router.http.schemas import ollama as schemas
from capamesh.router.http.schemas.headers import CHAT
from capamesh.router.requests.generation import bodies
from capamesh.router.requests.generation.ollama_answer import OllamaWriter
from capamesh.router.requests.generation.ollama_request import read_ollama_chat, read_ollama_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from capamesh.protocol.errors import CapameshError
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.http.generation_way import Generations
    from capamesh.router.requests.generation.asked import Asked

LINES: Final = "application/x-ndjson"


def _broken(error: CapameshError) -> bytes:
    return json.dumps({"error": error.message}).encode() + b"\n"


_STREAM: Final = StreamForm(LINES, _broken, error_response)


class OllamaApi(Pages):
    """`POST /api/chat`, `POST /api/generate`, `GET /api/tags` and `GET /api/version`."""

    def __init__(self, generations: Generations, fleet: FleetView) -> None:
        self._generations = generations
        self._fleet = fleet

    @override
    def routes(self) -> list[Route]:
        kinds = (
            ("/api/chat", self.chat, bodies.OllamaChatRequest, schemas.OllamaChat),
            ("/api/generate", self.generate, bodies.OllamaTextRequest, schemas.OllamaText),
        )
        return [
            *(
                Route(
                    "POST",
                    path,
                    handler,
                    (Verb.INFER,),
                    (Content(answer), Content(str, LINES)),
                    body=json_of(body),
                    headers=CHAT,
                    errors=(400, 404, 409, 429, 500, 502, 503, 504),
                )
                for path, handler, body, answer in kinds
            ),
            Route(
                "GET",
                "/api/tags",
                self.tags,
                (Verb.INFER, Verb.READ),
                json_of(schemas.OllamaModels),
            ),
            Route("GET", "/api/version", self.version, ANY_KEY, json_of(schemas.OllamaVersion)),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Return the next message of a chat, as Ollama's route of that name does: as it comes, a line of JSON each, unless `stream` is false."""
        return await self._answer(request, read_ollama_chat, is_chat=True)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Return the answer to one message, or with `raw` how a text goes on, as Ollama's route of that name does."""
        return await self._answer(request, read_ollama_text, is_chat=False)

    async def tags(self, request: web.Request) -> web.Response:
        """Return the models for chat that the key may run, as Ollama lists those that it has."""
        key = key_of(request)
        found: list[dict[str, Any]] = []
        for model in list(self._fleet.models()):
            offer = self._fleet.offer(model, ModelVersion(""))
            if offer is None or offer.task is not Task.CHAT:
                continue
            if key is None or key.may_run(model) or key.may(Verb.READ):
                found.append(
                    {
                        "name": model,
                        "model": model,
                        "modified_at": datetime.fromtimestamp(0, UTC).isoformat(),
                        "size": 0,
                        "digest": offer.digest,
                        "details": {"format": "onnx", "family": "", "parameter_size": ""},
                    }
                )
        return web.json_response({"models": found})

    async def version(self, _: web.Request) -> web.Response:
        """Return the version of the program, which Ollama's clients ask for first."""
        return web.json_response({"version": package_version("capamesh")})

    async def _answer(
        self, request: web.Request, read: Callable[[Mapping[str, Any]], Asked], *, is_chat: bool
    ) -> web.StreamResponse:
        way = self._generations
        asked = read(await way.values(request))
        writer = OllamaWriter(asked, way.wall_clock, way.draw_id, way.most_bytes, is_chat=is_chat)
        return await way.answer(request, asked, writer, _STREAM)
