"""Loads and unloads on the fleet: who is asked, how many, and what is told where some refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest
from fleet_fakes import FakeLink, Fleet, NullLog, advert, offer
from structlog.typing import FilteringBoundLogger

from capamesh.protocol.adverts import ModelOffer, ModelState
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    LinkLost,
    ModelUnavailable,
    Overloaded,
)
from capamesh.protocol.fleet import Changed
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import ControlAction, ControlCall, decode_call
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import ResponseHandler
from capamesh.protocol.tensors import Limits
from capamesh.router.requests import repository
from capamesh.router.requests.repository import ChangeReport, RepositoryControl, WantedChange
from capamesh.router.rules.constraints import ANYWHERE, Constraints

M = ModelName("m")
UNLOADED = offer(state=ModelState.UNLOADED)
FAILED = offer(state=ModelState.FAILED)
NOT_MINE = InvalidRequest("this node's operator does not let routers load or unload models")
GUARD_S = 60.0


class ControlLink(FakeLink):
    """A link to a node that makes a change, or says why not, once it is let."""

    def __init__(
        self, on_asked: Callable[[ControlCall], None], error: CapameshError | None
    ) -> None:
        super().__init__()
        self._on_asked = on_asked
        self._error = error
        self.wants: list[ControlCall] = []
        self.askers: list[ResponseHandler] = []
        self.is_held = False

    def ask(self, meta: bytes, body: Sequence[Any], asker: ResponseHandler) -> int:
        if self.refusal is not None:
            raise self.refusal
        wanted, _ = decode_call(meta, memoryview(b""), Limits())
        assert isinstance(wanted, ControlCall)
        self.wants.append(wanted)
        self.askers.append(asker)
        if not self.is_held:
            asyncio.get_running_loop().call_soon(self.let)
        return 7

    def let(self) -> None:
        for asker in self.askers:
            if self._error is None:
                self._on_asked(self.wants[-1])
                asker.answered(Answer(b"\x80", memoryview(b"")))
            else:
                asker.failed(self._error)
        self.askers.clear()

    def withdraw(self, stream: int) -> None:
        self.withdrawn.append(stream)


class Rig:
    """A fleet whose nodes change as they are asked, and say so in their adverts."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.log = NullLog()
        self.links: dict[str, ControlLink] = {}
        self.control = RepositoryControl(self.fleet.view, cast(FilteringBoundLogger, self.log))

    def node(
        self, peer: str, *models: ModelOffer, error: CapameshError | None = None
    ) -> ControlLink:
        self.fleet.node(peer, models=models or (offer(),))

        def changed(call: ControlCall) -> None:
            is_loaded = call.action is ControlAction.LOAD
            state = ModelState.READY if is_loaded else ModelState.UNLOADED
            new = advert(peer, f"{peer.lower()}:1", models=(offer(state=state),), counter=2)
            self.fleet.view.apply([Changed(new, self.fleet.view.adverts[PeerId(peer)])])

        self.links[peer] = link = ControlLink(changed, error)
        self.fleet.endpoints[-1].link = cast(Any, link)
        return link

    async def change(
        self,
        action: ControlAction = ControlAction.LOAD,
        model: ModelName = M,
        constraints: Constraints = ANYWHERE,
        **parameters: object,
    ) -> ChangeReport:
        wanted = WantedChange.read(action, model, parameters, constraints, "ops")
        async with asyncio.timeout(GUARD_S):
            return await self.control.change(wanted)

    @property
    def asked(self) -> str:
        return "".join(sorted(peer for peer, link in self.links.items() if link.wants))


async def begun(rig: Rig) -> asyncio.Task[ChangeReport]:
    """Begin a change that no node makes before it is let."""
    changing = asyncio.create_task(rig.change())
    for _ in range(20):
        await asyncio.sleep(0)
    return changing


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(repository, "_LOOK_EVERY_S", 0.0)
    return Rig()


async def test_load_asks_all_nodes_that_have_the_model(rig: Rig) -> None:
    rig.node("A", UNLOADED)
    rig.node("B", offer("other"))
    rig.node("C", FAILED)
    report = await rig.change(version="1")
    assert (sorted(report.made), report.refused) == (["A", "C"], [])
    assert rig.links["A"].wants == [ControlCall(ControlAction.LOAD, M, ModelVersion("1"))]
    assert rig.fleet.view.has_ready(PeerId("A"), M, ModelVersion("1"))
    (told,) = rig.log.of("models_changed")
    wanted = {"action": "load", "model": "m", "version": "1", "by": "ops"}
    assert told == {**wanted, "made": 2, "refused": 0, "nodes": report.made}


async def test_load_on_some_nodes_takes_those_that_have_it_then_those_that_have_not_failed(
    rig: Rig,
) -> None:
    rig.node("A", FAILED)
    rig.node("B", UNLOADED)
    rig.node("C")
    assert (await rig.change(nodes=2)).made == ["C", "B"]
    assert rig.asked == "BC"


async def test_unload_is_made_only_where_all_nodes_make_it(rig: Rig) -> None:
    rig.node("A", error=NOT_MINE)
    with pytest.raises(InvalidRequest, match=r"unloaded by 0 of 1 nodes \(A: this node's operator"):
        await rig.change(ControlAction.UNLOAD)  # for good: there is no reason to come again
    rig.node("B", error=Overloaded("busy"))
    rig.node("C")
    with pytest.raises(ModelUnavailable) as caught:
        await rig.change(ControlAction.UNLOAD)
    assert caught.value.message == (
        f"model 'm' was unloaded by 1 of 3 nodes (A: {NOT_MINE.message}; B: busy)"
    )
    ready = [rig.fleet.view.has_ready(PeerId(peer), M, ModelVersion("1")) for peer in "ABC"]
    assert ready == [True, True, False]
    assert rig.log.of("models_changed")[1]["refused"] == 2


async def test_no_more_than_so_many_are_asked_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "AT_ONCE", 2)
    for peer in "ABC":
        rig.node(peer).is_held = True
    changing = await begun(rig)
    assert rig.asked == "AB"
    for link in rig.links.values():
        link.is_held = False
        link.let()
    assert (await changing).made == ["A", "B", "C"]


async def test_nodes_within_the_constraints_alone_are_asked(rig: Rig) -> None:
    rig.node("A")
    rig.node("B")
    only = Constraints(peers=frozenset({PeerId("B")}))
    assert (await rig.change(constraints=only)).made == ["B"]
    nobody = Constraints(peers=frozenset({PeerId("Z")}))
    with pytest.raises(ModelUnavailable, match="by no node that the request's headers allow"):
        await rig.change(constraints=nobody)


async def test_each_worker_of_a_node_is_asked_once(rig: Rig) -> None:
    link = rig.node("A")
    link.peer_process = b"one"
    one = advert("A", "a:1", "a:2", "a:3", counter=2)
    rig.fleet.view.apply([Changed(one, rig.fleet.view.adverts[PeerId("A")])])
    links = [ControlLink(lambda _: None, None) for _ in range(2)]
    for each, endpoint, process in zip(
        links, rig.fleet.endpoints[1:], (b"one", b"two"), strict=True
    ):
        each.peer_process = process
        endpoint.link = cast(Any, each)
    assert (await rig.change()).made == ["A"]
    assert [len(each.wants) for each in (link, *links)] == [1, 0, 1]


async def test_node_without_a_link_or_whose_link_ends_has_not_made_it(rig: Rig) -> None:
    rig.node("A")
    rig.fleet.endpoints[0].link = None
    rig.node("B").refusal = LinkLost("it has just ended")
    with pytest.raises(
        ModelUnavailable, match=r"A: it cannot be reached now; B: it has just ended"
    ):
        await rig.change()


async def test_node_that_does_not_answer_is_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "PATIENCE_S", 0.001)
    rig.node("A").is_held = True
    with pytest.raises(ModelUnavailable, match=r"A: the node has not answered within 0.001 s"):
        await rig.change()
    assert rig.links["A"].withdrawn == [7]


async def test_caller_that_leaves_takes_the_change_back(rig: Rig) -> None:
    rig.node("A").is_held = True
    changing = await begun(rig)
    changing.cancel()
    await asyncio.wait([changing])
    assert (changing.cancelled(), rig.links["A"].withdrawn) == (True, [7])
    assert repr(rig.control) == "RepositoryControl(0 under way)"


async def test_changes_under_way_have_a_bound(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "MOST_CHANGES", 1)
    rig.node("A").is_held = True
    changing = await begun(rig)
    with pytest.raises(Overloaded, match="1 changes of models are under way"):
        await rig.change()
    rig.links["A"].let()
    assert (await changing).made == ["A"]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"nodes": 2}, "nodes is 2, and 1 have model 'm' in their folders"),
        ({"nodes": 0}, "a whole number from 1 to 100000 is expected"),
        ({"nodes": True}, "a whole number from 1 to 100000 is expected"),
        ({"version": 1}, "a text is expected"),
        ({"config": "{}"}, "'config' is not taken: a model is loaded as it is"),
        ({"file:1/model.onnx": "x"}, "'file:1/model.onnx' is not taken"),
        ({"unload_dependents": True}, "unload each model by its name"),
        ({"count": 1}, "'count' is unknown; there are nodes, version"),
    ],
)
async def test_parameter_that_is_none_is_refused(
    rig: Rig, parameters: Mapping[str, object], text: str
) -> None:
    rig.node("A")
    with pytest.raises(InvalidRequest, match=text):
        await rig.change(**parameters)
    assert rig.asked == ""
