"""A node whose model is away, and which loads it when a router asks for it: in the turn after that, or when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fleet_fakes import FakeLink, Fleet, Reply, advert
from typing_extensions import override

from capamesh.protocol.adverts import ModelOffer, ModelState
from capamesh.protocol.fleet import Changed
from capamesh.protocol.ids import PeerId
from capamesh.protocol.links.calls import ControlCall, decode_call
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import ResponseHandler
from capamesh.protocol.tensors import Limits


class LoadingLink(FakeLink):
    def __init__(self, fleet: Fleet, peer: str, model: ModelOffer, *script: Reply) -> None:
        """Add the node `peer` to the fleet, which has `model` once it is loaded."""
        away = replace(model, state=ModelState.UNLOADED, reason="no room", inputs=(), outputs=())
        fleet.node(peer, models=(away,))
        super().__init__(*script, endpoint=fleet.endpoints[-1])
        fleet.endpoints[-1].link = self  # type: ignore[assignment]
        self._fleet = fleet
        self._peer = PeerId(peer)
        self._model = model
        self._askers: list[ResponseHandler] = []
        self.is_ready_at_once = True
        self.wanted = asyncio.Event()
        self.wants = 0

    @override
    def ask(self, meta: bytes, body: Sequence[Any], asker: ResponseHandler) -> int:
        if body or not isinstance(decode_call(meta, memoryview(b""), Limits())[0], ControlCall):
            return super().ask(meta, body, asker)
        self.wants += 1
        self._askers.append(asker)
        self.wanted.set()
        if self.is_ready_at_once:
            asyncio.get_running_loop().call_soon(self.load)
        return -self.wants

    @override
    def withdraw(self, stream: int) -> None:
        if stream >= 0:
            super().withdraw(stream)

    def load(self) -> None:
        before = self._fleet.view.adverts[self._peer]
        ready = replace(self._model, state=ModelState.READY)
        now = advert(self._peer, f"{self._peer.lower()}:1", models=(ready,), counter=2)
        changes = [Changed(now, before)]
        self._fleet.view.apply(changes)
        self._fleet.routing.heard(changes)
        for asker in self._askers:
            asker.answered(Answer(b"", memoryview(b"")))
