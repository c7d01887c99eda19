"""Requests for what is away for want of memory: who is asked to load it, who waits, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from fleet_fakes import FakeLink, Fleet, Reply, advert, call, echo, failing, offer

from capamesh.protocol.adverts import ModelOffer, ModelState
from capamesh.protocol.errors import (
    CapameshError,
    Draining,
    LinkLost,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    ProtocolViolation,
    RunFailed,
)
from capamesh.protocol.fleet import Changed
from capamesh.protocol.ids import ModelVersion, PeerId
from capamesh.protocol.links.calls import ControlAction, ControlCall, decode_call
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import ResponseHandler
from capamesh.protocol.tensors import Limits
from capamesh.router.balancing.serving import MOST_MISSED
from capamesh.router.fleet.wanted_loads import FIRST_REST_S, MAX_LOADS
from capamesh.router.ownership.owners import Owners
from capamesh.router.requests.asked_load import MOST_S, PATIENCE_S, SETTLED_S
from capamesh.router.requests.call import NO_OPTIONS
from capamesh.router.requests.cold_starts import MAX_OF_MODEL, MAX_WAITING

AWAY = ModelState.UNLOADED


class NodeLink(FakeLink):
    """A link that keeps what the node is asked to load, for the test to answer."""

    def __init__(self, *script: Reply, **more: Any) -> None:
        super().__init__(*script, **more)
        self.wants: list[ControlCall] = []
        self.askers: list[ResponseHandler] = []
        self.given_up = 0

    def ask(self, meta: bytes, body: Sequence[Any], asker: ResponseHandler) -> int:
        if body:
            return super().ask(meta, body, asker)
        wanted, _ = decode_call(meta, memoryview(b""), Limits())
        assert isinstance(wanted, ControlCall)
        self.wants.append(wanted)
        self.askers.append(asker)
        return -len(self.wants)

    def withdraw(self, stream: int) -> None:
        self.given_up += stream < 0
        super().withdraw(stream)

    def loaded(self) -> None:
        self.askers[-1].answered(Answer(b"", memoryview(b"")))

    def failed(self, error: CapameshError) -> None:
        self.askers[-1].failed(error)


class Cold(Fleet):
    """A fleet of nodes whose models are away."""

    def __init__(
        self,
        peers: str = "A",
        *names: str,
        state: ModelState = AWAY,
        owners: Owners | None = None,
    ) -> None:
        super().__init__(owners=owners)
        self.names = names or ("m",)
        self.counter = 1
        self.nodes: dict[str, NodeLink] = {}
        for peer in peers:
            models = tuple(offer(name, state=state, reason="no room") for name in self.names)
            self.away_at(peer, models)

    def away_at(self, peer: str, models: Sequence[ModelOffer], invite: str = "") -> NodeLink:
        """Add a node that keeps what it is asked to load."""
        self.node(peer, models=models, invite=invite or peer)
        self.nodes[peer] = link = NodeLink(endpoint=self.endpoints[-1])
        self.endpoints[-1].link = link  # type: ignore[assignment]
        return link

    def says(self, peer: str, state: ModelState, only: str = "", reason: str = "no room") -> None:
        """Let a node say of all its models that they are in `state`, or of one, and that the others are away."""
        self.counter += 1
        models = tuple(
            offer(name, state=state if only in {"", name} else AWAY, reason=reason)
            for name in self.names
        )
        before = self.view.adverts[PeerId(peer)]
        new = advert(peer, f"{peer.lower()}:1", models=models, counter=self.counter)
        changes = [Changed(new, before)]
        if self.owners is not None:
            self.view.judge_anew(self.owners.heard(new, peer, self.clock()))
        self.view.apply(changes)
        self.routing.heard(changes)

    def ask(self, model: str = "m", *, allowed_s: float = 30.0) -> asyncio.Task[str]:
        return asyncio.create_task(self._ask(model, allowed_s))

    def asked(self) -> dict[str, int]:
        """Return how often each node was asked for a load."""
        return {peer: len(link.wants) for peer, link in self.nodes.items() if link.wants}

    async def _ask(self, model: str, allowed_s: float) -> str:
        outcome = await self.infer(call(model), NO_OPTIONS, self.clock() + allowed_s)
        return str(outcome.replica.endpoint.peer)


async def supervisor() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_requests_wait_while_one_node_loads_the_model_and_are_answered_then() -> None:
    fleet = Cold("AB")
    asked = [fleet.ask() for _ in range(5)]
    await supervisor()
    (peer,) = fleet.asked()
    wanted = ControlCall(ControlAction.WANT, offer().name, offer().version)
    assert fleet.nodes[peer].wants == [wanted]
    await asyncio.sleep(3.0)
    assert not any(task.done() for task in asked)
    fleet.nodes[peer].loaded()
    await supervisor()
    fleet.says(peer, ModelState.READY)
    assert await asyncio.gather(*asked) == [peer] * 5
    assert (fleet.asked(), fleet.counts) == ({peer: 1}, {})


async def test_model_that_no_node_knows_or_has_failed_to_load_is_not_waited_for() -> None:
    fleet = Cold("A", state=ModelState.FAILED)
    with pytest.raises(ModelUnavailable, match="failed: no room"):
        await fleet.ask()
    with pytest.raises(ModelNotFound):
        await fleet.ask("nobody")
    assert fleet.nodes["A"].wants == []


async def test_next_node_is_asked_where_one_cannot() -> None:
    fleet = Cold("AB")
    asked = fleet.ask()
    await supervisor()
    first, second = sorted(fleet.nodes.values(), key=lambda link: -len(link.wants))
    first.failed(ModelUnavailable("an operator is unknown"))
    await supervisor()
    assert len(second.wants) == 1
    second.failed(LinkLost("killed"))
    with pytest.raises(ModelUnavailable, match=r"no room.* cannot be loaded for this request: "):
        await asked
    with pytest.raises(ModelUnavailable) as refused:
        await fleet.ask()
    assert refused.value.retry_after_s == FIRST_REST_S
    await asyncio.sleep(FIRST_REST_S)
    again = fleet.ask()
    await supervisor()
    assert len(first.wants) + len(second.wants) == 3
    again.cancel()
    await supervisor()
    assert fleet.counts == {}


async def test_node_that_says_when_it_has_room_is_waited_for_if_there_is_time() -> None:
    fleet = Cold()
    patient, hasty = fleet.ask(allowed_s=30.0), fleet.ask(allowed_s=3.0)
    await supervisor()
    link = fleet.nodes["A"]
    link.failed(Overloaded("others are in use", 4.0))
    said = "cannot be loaded for this request: others are in use"
    with pytest.raises(ModelUnavailable, match=said) as reported:
        await hasty
    assert reported.value.retry_after_s == pytest.approx(4.0)
    await asyncio.sleep(3.9)
    assert len(link.wants) == 1
    await asyncio.sleep(0.2)
    assert len(link.wants) == 2
    link.loaded()
    fleet.says("A", ModelState.READY)
    assert await patient == "A"


async def test_load_that_takes_too_long_ends_the_wait_at_the_deadline() -> None:
    fleet = Cold()
    with pytest.raises(ModelUnavailable, match="which takes longer than the request's time"):
        await fleet.ask(allowed_s=2.0)
    assert fleet.clock() == pytest.approx(2.0)
    assert fleet.counts == {}
    await asyncio.sleep(PATIENCE_S)
    assert fleet.nodes["A"].given_up == 1
    asked_s = fleet.clock()
    with pytest.raises(ModelUnavailable):
        await fleet.ask(allowed_s=2.0)
    assert fleet.clock() == pytest.approx(asked_s + 2.0)
    assert len(fleet.nodes["A"].wants) == 2


async def test_load_of_five_minutes_that_tells_of_progress_breaks_no_promise() -> None:
    fleet = Cold("AB")
    asked = fleet.ask(allowed_s=600.0)
    for at in range(15):
        await asyncio.sleep(20.0)
        fleet.says("A", AWAY, reason=f"it is being loaded, for {20 * at} s so far")
    assert (fleet.nodes["A"].given_up, fleet.nodes["B"].wants) == (0, [])
    fleet.nodes["A"].loaded()
    fleet.says("A", ModelState.READY)
    assert await asked == "A"
    assert fleet.routing.pipeline.cold._loads._broken == {}


@pytest.mark.parametrize(("tells", "after_s"), [(False, PATIENCE_S), (True, MOST_S)])
async def test_load_that_hangs_is_broken_soon_and_one_of_a_liar_in_the_end(
    tells: bool, after_s: float
) -> None:
    fleet = Cold("AB")
    asked = fleet.ask(allowed_s=2 * MOST_S)
    for at in range(int(after_s / 20.0)):
        assert fleet.nodes["B"].wants == []
        await asyncio.sleep(20.0)
        fleet.says(
            "A",
            AWAY,
            reason=f"it is being loaded, for {20 * at * tells} s so far" * tells or "no room",
        )
    await asyncio.sleep(0.1)
    assert fleet.nodes["A"].given_up == 1
    assert [*fleet.routing.pipeline.cold._loads._broken.values()] == [1]
    assert len(fleet.nodes["B"].wants) == 1
    asked.cancel()
    await supervisor()


async def test_strangers_that_ask_for_all_models_bring_about_few_loads_at_a_time() -> None:
    names = [f"m{at}" for at in range(40)]
    fleet = Cold("ABCDEFGHIJ", *names)
    asked = [fleet.ask(name, allowed_s=5.0) for name in names for _ in range(3)]
    await supervisor()
    assert sum(len(link.wants) for link in fleet.nodes.values()) == MAX_LOADS
    assert max(len(link.wants) for link in fleet.nodes.values()) == 1
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(one) for one in outcomes} == {ModelUnavailable}
    assert fleet.counts == {}


# one member against the rest


def other(version: str) -> ModelOffer:
    return replace(offer("m", version, AWAY), digest="sha256-chunks:" + "e" * 64)


async def test_version_that_is_not_trusted_is_loaded_for_no_request_that_does_not_name_it() -> None:
    fleet = Cold("AB", owners=Owners())
    versions = [other(str(number)) for number in range(900, 950)]
    evil = fleet.away_at("X", [other("1"), *versions], invite="evil")
    asked = fleet.ask()
    await supervisor()
    assert set(fleet.asked()) <= {"A", "B"}
    assert fleet.asked() != {}
    named = fleet.infer(call().replace(version=ModelVersion("1")), NO_OPTIONS, fleet.clock() + 1.0)
    with pytest.raises(ModelUnavailable):
        await named
    assert evil.wants == []
    asked.cancel()
    await supervisor()
    assert fleet.counts == {}


@pytest.mark.parametrize("answers", [True, False], ids=["lies", "never answers"])
async def test_node_that_breaks_its_word_keeps_a_model_cold_once_and_its_invite_is_asked_last(
    answers: bool,
) -> None:
    fleet = Cold("", "m", "n", owners=Owners())
    models = [offer("m", state=AWAY), offer("n", state=AWAY)]
    evil = [fleet.away_at(peer, models, invite="evil") for peer in "XYZ"]
    honest = fleet.away_at("A", models, invite="honest")
    for name in fleet.names:
        first = fleet.ask(name, allowed_s=100.0)
        await supervisor()
        if name == "m":
            assert fleet.asked() == {"X": 1}
            if answers:
                evil[0].loaded()
            await asyncio.sleep((SETTLED_S if answers else PATIENCE_S) - 0.1)
            assert not honest.wants
            await asyncio.sleep(0.2)
        assert [len(link.wants) for link in evil] == [1, 0, 0]
        assert honest.wants[-1].model == name
        honest.loaded()
        fleet.says("A", ModelState.READY)
        assert await first == "A"
        fleet.says("A", AWAY)


def claimed(*script: Reply) -> Cold:
    """Return a fleet of a node whose model is away, and one that says to have it and follows `script`."""
    fleet = Cold("A")
    fleet.node("X", *script, invite="evil")
    return fleet


@pytest.mark.parametrize(
    "error",
    [kind("so it is") for kind in (RunFailed, ModelUnavailable, Draining, ProtocolViolation)]
    + [Overloaded("it is full", 1.0)],
    ids=lambda error: error.code,
)
async def test_node_that_fails_all_keeps_no_model_from_being_loaded_by_another(
    error: CapameshError,
) -> None:
    fleet = claimed(failing(error))
    for _ in range(MOST_MISSED):
        asked = fleet.ask()
        await asyncio.sleep(1.5)
        if asked.done():  # it was refused: one that is full for a moment refuses a few
            assert isinstance(asked.exception(), type(error))
    assert fleet.asked() == {"A": 1}
    await supervisor()
    fleet.nodes["A"].loaded()
    fleet.says("A", ModelState.READY)
    assert await asked == "A"
    assert await asyncio.gather(*[fleet.ask() for _ in range(20)]) == ["A"] * 20
    assert fleet.counts == {}


async def test_request_whose_load_fails_tries_a_node_that_says_to_have_the_model() -> None:
    fleet = claimed(failing(RunFailed("no")), echo)
    first = fleet.ask()
    await supervisor()
    second = fleet.ask()
    await supervisor()
    fleet.nodes["A"].failed(ModelUnavailable("an operator is unknown"))
    with pytest.raises(RunFailed, match="no"):
        await first
    assert await second == "X"
    assert fleet.counts == {}


# strangers against the rest


async def test_requests_for_what_is_away_take_no_place_from_those_who_wait_for_a_link() -> None:
    fleet = Cold("A", "m", "n", "o")
    asked = [fleet.ask(name) for name in "mmn" for _ in range(MAX_OF_MODEL)]
    await supervisor()
    assert len(fleet.balancer.links) == 0
    refused = [task for task in asked if task.done()]
    assert len(refused) == 3 * MAX_OF_MODEL - MAX_WAITING
    assert all(isinstance(task.exception(), ModelUnavailable) for task in refused)
    with pytest.raises(ModelUnavailable):
        await fleet.ask("o")
    fleet.nodes["A"].failed(ModelUnavailable("later"))
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert repr(fleet.routing.pipeline.cold).startswith("ColdStarts(0 waiting,")
    assert fleet.routing.pipeline.cold._bytes == 0
