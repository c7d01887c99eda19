"""Loads and unloads a model on nodes of the fleet, for whoever commands the router. IO: asyncio, links.

The nodes that have the model in their folders are asked, all at once up to a bound. Each decides by itself: only one whose
operator allows it does as routers say. A change is made where as many nodes have made it as were asked for; what some have
done stays done where others refuse, and is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.adverts import ModelState
from capamesh.protocol.errors import (
    CapameshError,
    ClientError,
    InvalidRequest,
    LinkLost,
    ModelUnavailable,
    NoEndpoint,
    Overloaded,
)
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import ControlAction, ControlCall, encode_control
from capamesh.protocol.links.handlers import ResponseHandler
from capamesh.router.balancing.absence import not_hosted
from capamesh.router.fleet.naming import name_of

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.adverts import NodeAdvert
    from capamesh.protocol.ids import ModelName, PeerId
    from capamesh.protocol.links.events import Answer
    from capamesh.router.fleet.node_link import NodeLink
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.rules.constraints import Constraints

MOST_CHANGES: Final = 8
"""The most changes that one router makes at the same time (guess: an operator makes one, a script a few)."""
AT_ONCE: Final = 32
"""The most nodes that are asked at the same time for one change (guess)."""
PATIENCE_S: Final = 120.0
"""A node that has not answered by then has not made the change (guess: a model of some gigabytes is loaded within a minute)."""
_LOOK_EVERY_S: Final = 0.02
_LOOKS: Final = 100
"""The adverts of nodes have two seconds to say what these have done (guess: gossip takes less)."""
MOST_NODES: Final = 100_000
_PARAMETERS: Final = ("nodes", "version")
MOST_TOLD: Final = 5
"""The most nodes whose refusals an error tells (guess: as much as one reads)."""
NODES_A_STEP: Final = 256
_DONE: Final = {ControlAction.LOAD: "loaded", ControlAction.UNLOAD: "unloaded"}
_LOAD_ORDER: Final = {ModelState.READY: 0, ModelState.FAILED: 2}


@dataclass(frozen=True, slots=True)
class WantedChange:
    """One change that is asked for."""

    action: ControlAction
    model: ModelName
    version: ModelVersion
    """The version; empty: all that the model's policy names."""
    nodes: int | None
    """The number of nodes that are to make it; None: all that have the model, as far as they load it."""
    constraints: Constraints
    """The nodes that may be asked."""
    by: str
    """The id of the key of whoever asks, for the log, or that it is the operator."""

    @classmethod
    def read(
        cls,
        action: ControlAction,
        model: ModelName,
        parameters: Mapping[str, object],
        constraints: Constraints,
        by: str,
    ) -> WantedChange:
        """Return what a request asks for by its parameters. Raises `InvalidRequest`."""
        version, nodes = parameters.get("version", ""), parameters.get("nodes")
        for name, value in parameters.items():
            if name == "config" or name.startswith("file:"):
                raise InvalidRequest(
                    f"the parameter {name[:80]!r} is not taken: a model is loaded as it is in its node's folder"
                )
            if name == "unload_dependents" and value is False:
                continue
            if name == "unload_dependents":
                raise InvalidRequest(
                    "unload_dependents is not taken: unload each model by its name"
                )
            if name not in _PARAMETERS:
                raise InvalidRequest(
                    f"the parameter {name[:80]!r} is unknown; there are {', '.join(_PARAMETERS)}"
                )
        if not isinstance(version, str):
            raise InvalidRequest(f'"version" is {version!r:.80}; a text is expected')
        if nodes is not None and (type(nodes) is not int or not 1 <= nodes <= MOST_NODES):
            raise InvalidRequest(
                f'"nodes" is {nodes!r:.80}; a whole number from 1 to {MOST_NODES} is expected'
            )
        return cls(action, model, ModelVersion(version), nodes, constraints, by)


@dataclass(slots=True)
class ChangeReport:
    """The outcome of one change: who has made it, and who has not and why."""

    made: list[PeerId] = field(default_factory=list)
    refused: list[tuple[PeerId, CapameshError]] = field(default_factory=list)


class RepositoryControl:
    """The changes that one router makes."""

    def __init__(self, fleet: FleetView, log: FilteringBoundLogger) -> None:
        self._fleet = fleet
        self._log = log
        self._under_way = 0

    @override
    def __repr__(self) -> str:
        return f"RepositoryControl({self._under_way} under way)"

    async def change(self, wanted: WantedChange) -> ChangeReport:
        """Make a change; return who has made it, once the fleet knows.

        Raises:
            ModelNotFound, ModelUnavailable, NoEndpoint: no node has the model in its folder.
            InvalidRequest: more nodes are asked for than have it, or all of them refuse for good.
            ModelUnavailable: too few nodes have made it.
            Overloaded: too many changes are under way.
        """
        if self._under_way >= MOST_CHANGES:
            raise Overloaded(
                f"{self._under_way} changes of models are under way, the most at a time; try again soon",
                1.0,
            )
        self._under_way += 1
        try:
            peers = await self._candidates(wanted)
            report = await self._ask(wanted, peers)
            await self._settled(wanted, report.made)
        finally:
            self._under_way -= 1
        self._log.info(
            "models_changed",
            action=wanted.action.value,
            model=wanted.model,
            version=wanted.version,
            by=wanted.by,
            made=len(report.made),
            refused=len(report.refused),
            nodes=[self._shown(peer) for peer in report.made[:MOST_TOLD]],
        )
        self._check(wanted, report)
        return report

    async def _candidates(self, wanted: WantedChange) -> list[PeerId]:
        """Return the nodes to ask, the best first; raise why there are none, or too few."""
        fleet, ranked = self._fleet, list[tuple[int, int, "PeerId"]]()
        for count, advert in enumerate([*fleet.adverts.values()], 1):
            if not count % NODES_A_STEP:
                await asyncio.sleep(0)
            states = [
                offer.state
                for offer in advert.models
                if offer.name == wanted.model and wanted.version in {"", offer.version}
            ]
            if states and _is_meant(wanted.constraints, fleet, advert):
                ranked.append((*self._rank(wanted.action, states, advert.peer), advert.peer))
        ranked.sort()
        if not ranked:
            if fleet.versions(wanted.model):
                raise ModelUnavailable(
                    f"model {wanted.model!r} is hosted, but by no node that the request's headers allow"
                    if not wanted.version
                    else f"no node that the request allows has version {wanted.version!r} of model {wanted.model!r}"
                )
            raise not_hosted(fleet, wanted.model, wanted.version)
        if wanted.nodes is not None and wanted.nodes > len(ranked):
            raise InvalidRequest(
                f"nodes is {wanted.nodes}, and {len(ranked)} have model {wanted.model!r} in their folders: ask for fewer"
            )
        return [peer for *_, peer in ranked]

    def _rank(
        self, action: ControlAction, states: list[ModelState], peer: PeerId
    ) -> tuple[int, int]:
        """Return where a node stands: to load, who has it already, then who has not failed; to unload, who is least busy."""
        if action is ControlAction.LOAD:
            return min(_LOAD_ORDER.get(state, 1) for state in states), 0
        rif = sum(endpoint.rif for endpoint in self._fleet.endpoints_of(peer))
        return (0 if ModelState.READY in states else 1), rif

    async def _ask(self, wanted: WantedChange, peers: list[PeerId]) -> ChangeReport:
        """Ask nodes until enough have made the change, or none is left."""
        report = ChangeReport()
        enough = len(peers) if wanted.nodes is None else wanted.nodes
        left = iter(peers)
        while len(report.made) < enough:
            asked = [*islice(left, min(AT_ONCE, enough - len(report.made)))]
            if not asked:
                break
            ends = await asyncio.gather(*(self._change_at(wanted, peer) for peer in asked))
            for peer, error in zip(asked, ends, strict=True):
                if error is None:
                    report.made.append(peer)
                else:
                    report.refused.append((peer, error))
        return report

    async def _change_at(self, wanted: WantedChange, peer: PeerId) -> CapameshError | None:
        """Have one node make the change, each of its workers; return why not."""
        links = [*self._links_to(peer)]
        if not links:
            return NoEndpoint("it cannot be reached now")
        call = encode_control(ControlCall(wanted.action, wanted.model, wanted.version))
        ends = await asyncio.gather(*(_answer(link, call) for link in links))
        return next((error for error in ends if error is not None), None)

    def _links_to(self, peer: PeerId) -> Iterator[NodeLink]:
        """Yield a link to each worker of a node: a worker may be reached at several addresses."""
        seen: set[bytes] = set()
        for endpoint in self._fleet.endpoints_of(peer):
            link = endpoint.link
            if link is None or not endpoint.is_usable or link.peer_process in seen:
                continue
            if link.peer_process:
                seen.add(link.peer_process)
            yield link

    async def _settled(self, wanted: WantedChange, peers: list[PeerId]) -> None:
        """Wait until the adverts of the nodes say what these have done, if that is soon."""
        is_loaded = wanted.action is ControlAction.LOAD
        for _ in range(_LOOKS):
            if all(self._has(wanted, peer) is is_loaded for peer in peers):
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    def _has(self, wanted: WantedChange, peer: PeerId) -> bool:
        advert = self._fleet.adverts.get(peer)
        return advert is not None and any(
            offer.is_ready and offer.name == wanted.model and wanted.version in {"", offer.version}
            for offer in advert.models
        )

    def _check(self, wanted: WantedChange, report: ChangeReport) -> None:
        """Raise unless enough nodes have made the change."""
        made, refused = len(report.made), len(report.refused)
        if wanted.nodes is not None:
            is_enough = made >= wanted.nodes
        else:  # a model is gone once no node has it, and there once some has
            is_enough = made > 0 and (wanted.action is ControlAction.LOAD or not refused)
        if is_enough:
            return
        of = made + refused if wanted.nodes is None else wanted.nodes
        told = "; ".join(
            f"{self._shown(peer)}: {error.message}" for peer, error in report.refused[:MOST_TOLD]
        )
        more = f"; and {refused - MOST_TOLD} more" if refused > MOST_TOLD else ""
        text = f"model {wanted.model!r} was {_DONE[wanted.action]} by {made} of {of} nodes ({told}{more})"
        if all(isinstance(error, ClientError) for _, error in report.refused):
            raise InvalidRequest(text)
        raise ModelUnavailable(text)

    def _shown(self, peer: PeerId) -> str:
        return name_of(self._fleet.adverts, peer) or peer


class _Asked(ResponseHandler):
    """One node that was asked, as its link knows it."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended: asyncio.Future[CapameshError | None] = (
            asyncio.get_running_loop().create_future()
        )

    @override
    def answered(self, answer: Answer) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    @override
    def failed(self, error: CapameshError) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


async def _answer(link: NodeLink, call: bytes) -> CapameshError | None:
    """Ask on one link; return why the change was not made."""
    asked = _Asked()
    try:
        stream = link.ask(call, (), asked)
    except CapameshError as error:
        return error.with_traceback(None)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await asked.ended
    except TimeoutError:
        return LinkLost(f"the node has not answered within {PATIENCE_S:g} s")
    finally:
        if not asked.ended.done() or asked.ended.cancelled():
            link.withdraw(stream)


def _is_meant(constraints: Constraints, fleet: FleetView, advert: NodeAdvert) -> bool:
    """Return whether a node may be asked, at one of its addresses at least."""
    endpoints = fleet.endpoints_of(advert.peer)
    return any(constraints.are_met_by(advert, endpoint.address) for endpoint in endpoints) or (
        not endpoints and constraints.are_met_by(advert, "")
    )
