"""The pages on routing: why a request would go where, and the operator's word on a node. IO: aiohttp.

Anyone who may send requests may ask why; only who has the operator's key, or an admin's, may say something.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import ClientError, InvalidRequest, ModelNotFound
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.oip import error_body, parse_object
from capamesh.router.access.keys import Verb
from capamesh.router.access.operator_key import KEY_FILE, SCHEME, OperatorKey
from capamesh.router.admission.shedding import rank_of
from capamesh.router.balancing.explanation import Explanation, replica_body
from capamesh.router.fleet.lost_nodes import LostNodes
from capamesh.router.fleet.naming import name_of, nodes_meant, not_one
from capamesh.router.fleet.overrides import Hold, Overrides
from capamesh.router.http.bodies import read_body
from capamesh.router.http.elsewhere import NOBODY_ELSE, REQUESTS, Elsewhere
from capamesh.router.http.errors import CODE, status_of
from capamesh.router.http.key_check import key_of
from capamesh.router.http.options import MAX_CHARS, options_of
from capamesh.router.http.route import Pages, Parameter, Route, json_of
from capamesh.router.http.schemas import routing as schemas
from capamesh.router.http.schemas.fleet import Forgotten, Override
from capamesh.router.http.schemas.headers import ROUTING
from capamesh.router.http.schemas.oip import Priority, Timeout
from capamesh.router.requests.key_scope import check_node, constrained
from capamesh.router.requests.parameters import PRIORITY, TIMEOUT, priority_of, time_allowed_s
from capamesh.router.resilience.health import CircuitState

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.adverts import NodeAdvert
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.requests.routing import Admission, Routing
    from capamesh.router.telemetry.ended import EndedRequests

STATES: Final[Mapping[str, CircuitState | None]] = {
    "forced_open": CircuitState.FORCED_OPEN,
    "forced_closed": CircuitState.FORCED_CLOSED,
    "automatic": None,
}
MAX_BODY_BYTES: Final = 4096
"""The largest body (guess: a model's name has at most 256 characters)."""
_KEYS: Final = ("state", "model", "version")
_NUMBERS: Final = frozenset({PRIORITY, TIMEOUT})
_MAX_DIGITS: Final = 18
"""The most digits of a number in a query (guess: 30,000 years of microseconds)."""
_QUERY: Final = (
    Parameter("version", "The version; left out: the newest."),
    Parameter("tenant", "The tenant as whose it is counted."),
    Parameter(PRIORITY, "From 1, the most urgent, to 255; 0: left out.", Priority),
    Parameter(TIMEOUT, "The microseconds in which it is to be answered; 0: left out.", Timeout),
)
_QUERY_NAMES: Final = tuple(each.name for each in _QUERY)


class RoutingApi(Pages):
    """`/v1/models/MODEL/routing`, `/v1/requests`, and what the operator says of `/v1/nodes/PEER`."""

    def __init__(
        self,
        fleet: FleetView,
        routing: Routing,
        overrides: Overrides,
        key: OperatorKey,
        log: FilteringBoundLogger,
        *,
        arrival_s: float,
        timeout_s: float,
        clock: Callable[[], float],
        ended: EndedRequests,
        elsewhere: Elsewhere = NOBODY_ELSE,
        lost: LostNodes | None = None,
    ) -> None:
        """A body may take `arrival_s` to arrive; `timeout_s` is for requests that name no deadline of their own.

        `clock` is that of the nodes' healths, in seconds. `ended` has the requests to be shown; `elsewhere` has those
        of the router's other processes, which take the operator's word too. `lost` are the nodes that vanished.
        """
        self._elsewhere = elsewhere
        self._lost = LostNodes() if lost is None else lost
        self._ended = ended
        self._fleet = fleet
        self._routing = routing
        self._overrides = overrides
        self._key = key
        self._log = log
        self._arrival_s = arrival_s
        self._timeout_s = timeout_s
        self._clock = clock

    @override
    def routes(self) -> list[Route]:
        return [
            Route(
                "GET",
                "/v1/models/{model}/routing",
                self.explain,
                (Verb.READ,),
                json_of(schemas.Decision),
                query=_QUERY,
                headers=ROUTING,
                errors=(400, 503),
            ),
            Route("GET", "/v1/requests", self.requests, (Verb.READ,), json_of(schemas.Kinds)),
            Route(
                "PUT",
                "/v1/nodes/{peer}/circuit",
                self.hold,
                (Verb.ADMIN,),
                json_of(schemas.Held),
                body=json_of(schemas.Hold),
                errors=(400,),
            ),
            Route(
                "DELETE",
                "/v1/nodes/{peer}",
                self.forget,
                (Verb.ADMIN,),
                json_of(Forgotten),
                errors=(400,),
            ),
        ]

    async def requests(self, _: web.Request) -> web.Response:
        """Return what failed or took long of late, by model and code: how often, the newest error's text, and the newest requests.

        Of each request it says when it began, how long it took, and each node that was asked.
        """
        body = await self._elsewhere.whole(REQUESTS, self.part_of_requests())
        return web.Response(
            body=body, content_type="application/json", headers={"Cache-Control": "no-store"}
        )

    def part_of_requests(self) -> bytes:
        """Return this process's part of the page of requests."""
        return json.dumps({"kinds": self._ended.rows()}).encode()

    async def explain(self, request: web.Request) -> web.Response:
        """Return whether a request would be let in now, where it would go, among whom and why; no node is asked.

        The headers that an inference request may have count here, too, its parameters `priority` and `timeout`, and the nodes
        that the caller's key is for.
        """
        for name in request.query:
            if name not in _QUERY_NAMES:
                raise InvalidRequest(
                    f"the query's {name[:80]!r} is unknown; there are {', '.join(_QUERY_NAMES)}"
                )
        options, _ = options_of(request.headers)
        tenant = request.query.get("tenant", "")
        if len(tenant) > MAX_CHARS:
            raise InvalidRequest(f"tenant has {len(tenant)} characters; at most {MAX_CHARS}")
        if tenant:
            options = replace(options, tenant=tenant)
        constraints = constrained(options.constraints, key_of(request))
        if constraints is not options.constraints:
            options = replace(options, constraints=constraints)
        parameters = {
            name: _number(request.query[name]) for name in _NUMBERS & request.query.keys()
        }
        priority = priority_of(parameters)
        allowed_s = time_allowed_s(parameters, self._timeout_s)
        model = ModelName(request.match_info["model"])
        version = ModelVersion(request.query.get("version", ""))
        admission = self._routing.admission(model, version, options, priority, allowed_s)
        explanation = self._routing.explain(
            model, admission.version, options, allowed_s, is_let_in=admission.refusal is None
        )
        return web.json_response(
            {
                **explanation_body(explanation, self._fleet.adverts),
                "owner": self._fleet.owner_of(model, explanation.version),
                "admission": admission_body(admission, options.tenant, priority),
            }
        )

    async def hold(self, request: web.Request) -> web.Response:
        """Take the operator's word on a node or one of its models; who has no key is refused."""
        key = key_of(request)
        refusal = self._refusal_of(request, "capamesh circuit PEER open|closed|auto --data DIR")
        if refusal is not None:
            return refusal
        state, model, version = _asked(
            await read_body(request, arrival_s=self._arrival_s, most_bytes=MAX_BODY_BYTES)
        )
        given = request.match_info["peer"]
        peers = nodes_meant(given, self._fleet.adverts, self._overrides.peers)
        if len(peers) != 1:
            return _refusal(400 if peers else 404, not_one(given, peers, self._fleet.adverts))
        (peer,) = peers
        check_node(key, self._fleet.adverts.get(peer))
        if model:
            self._check_hosted(peer, model, version, is_release=STATES[state] is None)
        hold = Hold(peer, model, version, STATES[state])
        self.take(hold)
        await self._elsewhere.hold(hold)
        name = name_of(self._fleet.adverts, peer)
        self._log.info(
            "circuit_held", node=name, peer=peer, state=state, model=model, version=version
        )
        return web.json_response(
            {
                "peer_id": peer,
                "name": name,
                "state": state,
                "model": model,
                "version": version,
                "overrides": overrides_body(self._overrides, peer),
            }
        )

    async def forget(self, request: web.Request) -> web.Response:
        """Forget a node that vanished and will not come back; one that is in the fleet cannot be forgotten."""
        refusal = self._refusal_of(request, "capamesh node forget NODE --data DIR")
        if refusal is not None:
            return refusal
        given = request.match_info["peer"]
        lost = {PeerId(node.peer): node for node in self._lost.nodes()}
        peers = nodes_meant(given, lost)
        if len(peers) != 1:
            if peers or not nodes_meant(given, self._fleet.adverts):
                return _refusal(400 if peers else 404, not_one(given, peers, lost, "lost"))
            return _refusal(
                400, f"{given[:80]!r} is in the fleet: a node is forgotten only after it was lost"
            )
        (peer,) = peers
        self._lost.forget(peer)
        self._elsewhere.forget(peer)
        self._log.info("node_forgotten", node=lost[peer].name, peer=peer)
        return web.json_response({"peer_id": peer, "name": lost[peer].name})

    def _refusal_of(self, request: web.Request, command: str) -> web.Response | None:
        """Return the refusal of a request that has neither the operator's key nor another that is asked for, else None."""
        if key_of(request) or self._key.opens(request.headers.get("Authorization", "")):
            return None
        return _refusal(
            401,
            f"this takes the operator's key: send 'Authorization: {SCHEME} KEY' with the content of {KEY_FILE} "
            f"in the router's data folder, which is new at each start; or use, on the router's machine: {command}",
            {"WWW-Authenticate": SCHEME},
        )

    def take(self, hold: Hold) -> None:
        """Take the operator's word on a node, which was checked."""
        self._overrides.hold(hold)
        self._overrides.apply_anew(self._fleet, hold.peer, self._clock())
        self._routing.wake()

    def _check_hosted(
        self, peer: PeerId, model: ModelName, version: ModelVersion, *, is_release: bool
    ) -> None:
        """Raise `ModelNotFound` for a model that the node neither announces nor is held for."""
        advert = self._fleet.adverts.get(peer)
        known = [(offer.name, offer.version) for offer in advert.models] if advert else []
        if is_release:
            known += [(hold.model, hold.version) for hold in self._overrides.of(peer) if hold.model]
        if any(model == name and version in {"", number} for name, number in known):
            return
        names = ", ".join(sorted({f"{name}/{number}".rstrip("/") for name, number in known}))
        of = f" version {version!r}" if version else ""
        raise ModelNotFound(f"node {peer} has no model {model!r}{of}; it has {names or 'none'}")


def explanation_body(
    explanation: Explanation, adverts: Mapping[PeerId, NodeAdvert]
) -> dict[str, Any]:
    """Return a decision as JSON: keys as in the header `X-Capamesh-Explanation`, but all replicas, in full, with names."""
    return {
        "model": explanation.model,
        "version": explanation.version,
        "policy": explanation.policy,
        "chosen": list(explanation.chosen),
        "replica_count": len(explanation.replicas),
        "replicas": [
            {"name": name_of(adverts, signals.peer), **replica_body(signals)}
            for signals in explanation.replicas
        ],
    }


def admission_body(admission: Admission, tenant: str, priority: int) -> dict[str, Any]:
    """Return as JSON whether a request is let in and, if not, what it would be answered."""
    body: dict[str, Any] = {
        "is_admitted": admission.refusal is None,
        "level": round(admission.level, 3),
        "tenant": tenant,
        "class": rank_of(priority).name.lower(),
    }
    error = admission.refusal
    if error is not None:
        body |= {
            "status": status_of(error),
            "code": error.code,
            "error": error.message,
            "retry_after_s": round(error.retry_after_s, 3),
        }
    return body


def overrides_body(overrides: Overrides, peer: PeerId) -> list[Override]:
    """Return what the operator has said of a node."""
    return [
        {
            "model": hold.model,
            "version": hold.version,
            "state": "automatic" if hold.state is None else str(hold.state),
        }
        for hold in overrides.of(peer)
    ]


def _number(text: str) -> int | str:
    """Return a whole number as such, anything else as it is, to be refused."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else text


def _asked(body: bytes) -> tuple[str, ModelName, ModelVersion]:
    """Return the state, model and version that a body names; raise `InvalidRequest`."""
    values = parse_object(body)
    for key, value in values.items():
        if key not in _KEYS:
            raise InvalidRequest(f"the key {key[:80]!r} is unknown; there are {', '.join(_KEYS)}")
        if not isinstance(value, str):
            raise InvalidRequest(f"{key!r} is {value!r:.80}; a text is expected")
    state, model, version = (str(values.get(key, "")) for key in _KEYS)
    if state not in STATES:
        raise InvalidRequest(
            f"the state {state[:80]!r} is unknown; there are {', '.join(STATES)}: never send, always, as it goes"
        )
    if version and not model:
        raise InvalidRequest(f"version {version[:80]!r} of which model? name it, too")
    return state, ModelName(model), ModelVersion(version)


def _refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=error_body(message, ClientError.code),
        content_type="application/json",
        headers={CODE: ClientError.code, **(headers or {})},
    )
