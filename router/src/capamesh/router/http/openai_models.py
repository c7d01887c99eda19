"""The models of the fleet, as OpenAI's clients list them, and for people. IO: aiohttp."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.access.keys import Verb
from capamesh.router.balancing.absence import not_hosted
from capamesh.router.http.cached_page import CachedPage
from capamesh.router.http.key_check import key_of
from capamesh.router.http.route import Pages, Route, json_of
from capamesh.router.http.schemas import openai

if TYPE_CHECKING:
    from capamesh.router.fleet.view import FleetView

OWNER = "capamesh"
"""Stands for whom a model is of: OpenAI's clients want some text."""


class ModelsApi(Pages):
    """`GET /v1/models`, and one of them."""

    def __init__(self, fleet: FleetView) -> None:
        self._fleet = fleet
        self._all = CachedPage(self._pieces)

    @override
    def routes(self) -> list[Route]:
        seen = (Verb.INFER, Verb.READ)
        return [
            Route("GET", "/v1/models", self.models, seen, json_of(openai.Models), is_openai=True),
            Route(
                "GET", "/v1/models/{model}", self.model, seen, json_of(openai.Model), is_openai=True
            ),
        ]

    async def models(self, request: web.Request) -> web.Response:
        """Return the models that can be asked for, as OpenAI does, and in `models` which file each version is served as and why.

        A key that may not read the network sees the models that it may run, and no more.
        """
        key = key_of(request)
        if key is None or key.may(Verb.READ):
            return web.Response(body=await self._all.body(), content_type="application/json")
        found = [entry for entry in self._entries() if key.may_run(entry["id"])]
        return web.json_response({"object": "list", "data": found})

    async def model(self, request: web.Request) -> web.Response:
        """Return one model, as OpenAI does: what it is for, and its versions."""
        model = ModelName(request.match_info["model"])
        entry = self._entry(model)
        if entry is None:
            raise not_hosted(self._fleet, model, ModelVersion(""))
        return web.json_response(entry)

    def _pieces(self) -> Iterator[bytes]:
        yield b'{"object": "list", "data": ['
        mark = b""
        for entry in self._entries():
            yield mark + json.dumps(entry).encode()
            mark = b", "
        yield b'], "models": ' + json.dumps(self._fleet.owned()).encode() + b"}"

    def _entries(self) -> Iterator[dict[str, Any]]:
        for model in list(self._fleet.models()):
            entry = self._entry(model)
            if entry is not None:
                yield entry

    def _entry(self, model: ModelName) -> dict[str, Any] | None:
        offer = self._fleet.offer(model, ModelVersion(""))
        if offer is None:
            return None
        return {
            "id": model,
            "object": "model",
            "created": 0,
            "owned_by": OWNER,
            "task": offer.task.value or None,
            "versions": self._fleet.versions(model),
        }
