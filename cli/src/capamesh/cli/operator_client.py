"""Clients that also ask about routing and configurations, and say something about nodes. IO: sockets, through the SDK."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode

from typing_extensions import override

from capamesh.client import AsyncClient, Client, HeldList
from capamesh.client.answers import Answer, ModelEntry, failure_of, read_held_list, read_json
from capamesh.client.asks import Ask
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    InvalidRequest,
    ModelNotFound,
    ProtocolViolation,
)
from capamesh.protocol.ids import PeerId
from capamesh.protocol.tasks import Task


@dataclass(frozen=True, slots=True)
class FleetNode:
    """One node as a router's page tells of it."""

    name: str
    row: Mapping[str, Any]


class OperatorClient(Client):
    """Talks to one router."""

    @override
    def __enter__(self) -> OperatorClient:
        super().__enter__()
        return self

    def explain(
        self, model: str, *, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return whether a request with these `X-Capamesh` headers would be let in now, where it would go, and why.

        `query` may have its version, tenant, priority and timeout, which is in microseconds.

        Raises `ModelNotFound`, and what any exchange with a router may raise.
        """
        if not model:
            raise InvalidRequest("the model's name is empty; see the list: capamesh models")
        asked = f"?{urlencode(query)}" if query else ""
        path = f"/v1/models/{quote(model, safe='')}/routing{asked}"
        return self._exchange(Ask("GET", path, _object, headers=headers))

    def fleet(self) -> dict[PeerId, FleetNode]:
        """Return the nodes of `nodes` by their peer ids, with the names by which an operator may mean them."""
        return {
            PeerId(str(row.get("peer_id"))): FleetNode(str(row.get("name") or ""), row)
            for row in self.nodes()
        }

    def nodes_and_lost(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the nodes of `nodes`, and those that vanished; none of these from an older router."""
        page = self._exchange(Ask("GET", "/v1/nodes", _object))
        return _rows(page, "nodes"), _rows(page, "lost")

    def routers(self) -> list[dict[str, Any]]:
        """Return the routers of the network that the router hears of, itself first; none from an older router."""
        try:
            return _rows(self._exchange(Ask("GET", "/v1/routers", _object)), "routers")
        except ModelNotFound:  # a page that it has not
            return []

    def forget(self, node: str, *, authorization: str) -> dict[str, Any]:
        """Let the router forget a lost node; raise `ClientError` when it refuses: no such node, not its key."""
        path = f"/v1/nodes/{quote(node, safe='')}"
        return self._exchange(
            Ask("DELETE", path, _object, headers={"Authorization": authorization})
        )

    def owned_models(self) -> list[dict[str, Any]]:
        """Return which file each version is served as, why, and who hosts others; none from an older router."""
        try:
            found = self._exchange(Ask("GET", "/v1/models", _object)).get("models", [])
        except ModelNotFound:  # a page that it has not
            return []
        return cast("list[dict[str, Any]]", found) if isinstance(found, list) else []

    def usable_models(self) -> list[ModelEntry]:
        """Return the versions of the models that this client's key may run, each of which is ready if it is there."""
        page = self._exchange(Ask("GET", "/v1/models", _object))
        entries = cast("list[dict[str, Any]]", page.get("data", []))
        return [
            ModelEntry(str(entry.get("id")), str(version), "READY", "")
            for entry in entries
            for version in entry.get("versions") or [""]
        ]

    def task_of(self, model: str) -> str:
        """Return what a model is for; empty: it takes tensors alone, or its router does not tell. Raises `ModelNotFound`."""
        entry = self._exchange(Ask("GET", f"/v1/models/{quote(model, safe='')}", _object))
        return str(entry.get("task") or "")

    def tasks(self) -> dict[str, str]:
        """Return what each model is for, as `read_tasks` has it."""
        return read_tasks(self._exchange(Ask("GET", "/v1/models", _object)))

    def name_of(self, peer: str) -> str:
        """Return the name of a node; empty where it has none, or the router does not say it to whoever asks."""
        try:
            node = self._exchange(Ask("GET", f"/v1/nodes/{quote(peer, safe='')}", _object))
        except CapameshError:
            return ""
        return str(node.get("name") or "")

    def snapshot(self) -> dict[str, Any]:
        """Return all that the router's page shows of now: the router, its nodes and its models."""
        return self._exchange(Ask("GET", "/v1/page/snapshot", _object))

    def hold(
        self, peer: str, state: str, *, model: str = "", version: str = "", authorization: str
    ) -> dict[str, Any]:
        """Say whether `peer`, or one of its models, is to be used; return what holds then.

        Raises `ClientError` when the router refuses: no such peer, not its key.
        """
        if not peer:
            raise InvalidRequest("the peer id is empty; see the list: capamesh nodes")
        body = json.dumps({"state": state, "model": model, "version": version}).encode()
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        path = f"/v1/nodes/{quote(peer, safe='')}/circuit"
        return self._exchange(Ask("PUT", path, _object, buffers=(body,), headers=headers))

    def drain_order(self) -> bytes:
        """Return the newest drain order that the router holds, as its owner signed it; empty where there never was one."""
        try:
            return self._exchange(Ask("GET", "/v1/drains", _bytes))
        except ModelNotFound as exc:  # a page that it has not
            raise ConfigError("this router is too old to drain nodes: upgrade it") from exc

    def drain(self, signed_order: bytes) -> HeldList:
        """Hand an owner's signed drain order to the router; return which order it holds then."""
        headers = {"Content-Type": "application/octet-stream"}
        return self._exchange(
            Ask("POST", "/v1/drains", _held, buffers=(signed_order,), headers=headers)
        )


def read_tasks(page: Mapping[str, Any]) -> dict[str, str]:
    """Return the task of each model of `GET /v1/models`, empty: it takes tensors alone.

    Servers of language models alone tell no task: theirs are for chat.
    """
    entries = page.get("data")
    found: dict[str, str] = {}
    for entry in cast("list[object]", entries) if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            values = cast("dict[str, object]", entry)
            found[str(values.get("id"))] = str(values.get("task", Task.CHAT) or "")
    return found


def _rows(page: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = page.get(name)
    if not isinstance(rows, list):
        return []
    return [
        cast("dict[str, Any]", row) for row in cast("list[object]", rows) if isinstance(row, dict)
    ]


def _bytes(answer: Answer, url: str) -> bytes:
    if answer.status != 200:
        raise failure_of(answer, url)
    return bytes(answer.body)


def _held(answer: Answer, url: str) -> HeldList:
    if answer.status != 200:
        raise failure_of(answer, url)
    return read_held_list(answer)


class AsyncOperatorClient(AsyncClient):
    """Talks to one router without blocking its caller."""

    @override
    async def __aenter__(self) -> AsyncOperatorClient:
        await super().__aenter__()
        return self

    async def tasks(self) -> dict[str, str]:
        """Return what each model is for, as `read_tasks` has it."""
        return read_tasks(await self._exchange(Ask("GET", "/v1/models", _object)))

    async def config(self, model: str) -> dict[str, Any]:
        """Return the configuration of a model in the shape of Triton's; raise `ModelNotFound` where nobody hosts it."""
        return await self._exchange(
            Ask("GET", f"/v2/models/{quote(model, safe='')}/config", _object)
        )


def _object(answer: Answer, url: str) -> dict[str, Any]:
    if answer.status != 200:
        raise failure_of(answer, url)
    value = read_json(answer)
    if not isinstance(value, dict):
        raise ProtocolViolation(f"{url} answered with no JSON object; is this a router's URL?")
    return cast("dict[str, Any]", value)
