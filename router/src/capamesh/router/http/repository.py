"""Triton's routes that load and unload a model: on the nodes of the fleet, for who may command the router. IO: aiohttp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.ids import ModelName
from capamesh.protocol.links.calls import ControlAction
from capamesh.protocol.oip import parse_object
from capamesh.router.access.keys import Verb
from capamesh.router.fleet.naming import name_of
from capamesh.router.http.bodies import read_body
from capamesh.router.http.key_check import AUTHORIZATION, KEYS, key_of
from capamesh.router.http.options import options_of
from capamesh.router.http.route import Handler, Pages, Route, json_of
from capamesh.router.http.schemas import headers
from capamesh.router.http.schemas.repository import RepositoryReport, RepositoryRequest
from capamesh.router.requests.key_scope import constrained
from capamesh.router.requests.repository import RepositoryControl, WantedChange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.ids import PeerId
    from capamesh.router.fleet.view import FleetView

MAX_BODY_BYTES: Final = 2**14
"""The largest body (guess: it has two parameters; a configuration, which is not taken, is told so)."""
MOST_SHOWN: Final = 1000
"""The most nodes of each kind that an answer lists."""


class RepositoryApi(Pages):
    """`/v2/repository/models/MODEL/load` and `/unload`."""

    def __init__(self, control: RepositoryControl, fleet: FleetView, *, arrival_s: float) -> None:
        """A body may take `arrival_s` to arrive."""
        self._control = control
        self._fleet = fleet
        self._arrival_s = arrival_s

    @override
    def routes(self) -> list[Route]:
        place = "/v2/repository/models/{model}"
        return [
            self._route(f"{place}/load", self.load),
            self._route(f"{place}/unload", self.unload),
        ]

    def _route(self, path: str, handler: Handler) -> Route:
        return Route(
            "POST",
            path,
            handler,
            (Verb.ADMIN,),
            json_of(RepositoryReport),
            body=json_of(RepositoryRequest),
            headers=headers.ROUTING,
            errors=(503,),
        )

    async def load(self, request: web.Request) -> web.Response:
        """Have nodes load a model from their folders, anew where they have it; return which did, and which refused and why."""
        return await self._change(request, ControlAction.LOAD)

    async def unload(self, request: web.Request) -> web.Response:
        """Have nodes unload a model, until they are asked to load it; return which did, and which refused and why."""
        return await self._change(request, ControlAction.UNLOAD)

    async def _change(self, request: web.Request, action: ControlAction) -> web.Response:
        key = key_of(request)
        by = request.app[KEYS].commander(key, request.headers.get(AUTHORIZATION, ""))
        body = await read_body(request, arrival_s=self._arrival_s, most_bytes=MAX_BODY_BYTES)
        options, _ = options_of(request.headers)
        wanted = WantedChange.read(
            action,
            ModelName(request.match_info["model"]),
            _parameters(body),
            constrained(options.constraints, key),
            by,
        )
        report = await self._control.change(wanted)
        return web.json_response(
            {
                "model": wanted.model,
                "action": action.value,
                "made_count": len(report.made),
                "made": self._shown((peer, None) for peer in report.made[:MOST_SHOWN]),
                "refused_count": len(report.refused),
                "refused": self._shown(report.refused[:MOST_SHOWN]),
            }
        )

    def _shown(self, ends: Iterable[tuple[PeerId, CapameshError | None]]) -> list[dict[str, str]]:
        return [
            {
                "peer_id": peer,
                "name": name_of(self._fleet.adverts, peer),
                **({} if error is None else {"code": error.code, "error": error.message}),
            }
            for peer, error in ends
        ]


def _parameters(body: bytes) -> dict[str, Any]:
    """Return the parameters in a body, which may be empty. Raises `InvalidRequest`."""
    asked = parse_object(body) if body.strip() else {}
    for key in asked:
        if key != "parameters":
            raise InvalidRequest(f'the key {key[:80]!r} is unknown; there is "parameters"')
    parameters = asked.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest(f'"parameters" is {parameters!r:.80}; an object is expected')
    return cast("dict[str, Any]", parameters)
