from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from fleet_fakes import (
    FakeLink,
    Reply,
    advert,
    answer_of,
    call,
    echo,
    failing,
    fp32,
    garbage,
    hang,
    linked,
    offer,
)

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LinkLost,
    ModelNotFound,
    ModelUnavailable,
    NoCandidate,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RunFailed,
    TooLarge,
    from_wire,
)
from capamesh.protocol.fleet import Joined
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.tensors import Limits
from capamesh.router.candidates import Candidate
from capamesh.router.dispatch import Dispatch
from capamesh.router.fleet_view import FleetView
from capamesh.router.policies import PowerOfTwo, RequestShape
from capamesh.router.telemetry import Telemetry

FAR_S = 1e9


class InOrder:
    """Picks the first, and keeps what it saw."""

    name = "in-order"

    def __init__(self) -> None:
        self.seen: list[list[str]] = []
        self.shapes: list[RequestShape] = []

    def pick(self, candidates: Sequence[Candidate], request: RequestShape) -> Candidate:
        self.seen.append([candidate.address for candidate in candidates])
        self.shapes.append(request)
        return candidates[0]


class Fleet:
    """Nodes A, B, ... that host model m, asked in that order."""

    def __init__(self, *scripts: Sequence[Reply], limits: Limits | None = None) -> None:
        self.candidates: list[Candidate] = []
        self.view = FleetView(on_new=self.candidates.append, on_gone=lambda _: None)
        self.now_s = 0.0
        self.policy = InOrder()
        self.telemetry = Telemetry()
        self.dispatch = Dispatch(
            self.view,
            self.policy,
            clock=lambda: self.now_s,
            limits=limits or Limits(),
            telemetry=self.telemetry,
        )
        self.links: list[FakeLink] = []
        for peer, script in zip("ABCDE", scripts, strict=False):
            self.view.apply([Joined(advert(peer, f"{peer.lower()}:1"))])
            self.links.append(linked(self.candidates[-1], *script))

    @property
    def asked(self) -> list[int]:
        return [len(link.calls) for link in self.links]

    @property
    def rifs(self) -> list[int]:
        return [candidate.rif for candidate in self.candidates]


async def test_an_answer_comes_with_who_gave_it_and_its_load_is_kept() -> None:
    fleet = Fleet([echo])
    outcome = await fleet.dispatch.infer(call("m", ""), FAR_S)
    (candidate,) = fleet.candidates
    assert (outcome.candidate, outcome.attempts) == (candidate, 1)
    assert outcome.answer.version == "1"
    assert outcome.answer.outputs == (fp32("y", [1, 2]),)
    assert candidate.load == LoadReport(1, 0, 8, 9, 10, 0)
    assert (candidate.answered, candidate.failed, candidate.rif) == (1, 0, 0)
    assert fleet.policy.shapes == [RequestShape("m", "", 8)]


async def test_the_request_is_counted_while_it_is_under_way() -> None:
    fleet = Fleet([hang])
    task = asyncio.create_task(fleet.dispatch.infer(call(), FAR_S))
    await fleet.links[0].asked.wait()
    assert fleet.rifs == [1]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fleet.links[0].cancelled.is_set()
    assert fleet.rifs == [0]


REFUSALS = [Overloaded("full"), Draining("leaving"), ModelUnavailable("loading")]
UNKNOWN = [
    LinkLost("gone"),
    RunFailed("crashed"),
    ProtocolViolation("odd"),
    PeerError("?"),
    NoCandidate("a router said that?"),
]
FINAL = [
    InvalidRequest("bad"),
    TooLarge("big"),
    ModelNotFound("no"),
    DeadlineExceeded("late"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.code)
async def test_refusals_move_on_to_everyone_once(error: CapameshError) -> None:
    fleet = Fleet(*[[failing(error)]] * 4, [echo])
    outcome = await fleet.dispatch.infer(call(), FAR_S)
    assert outcome.attempts == 5
    assert fleet.asked == [1, 1, 1, 1, 1]
    assert [candidate.failed for candidate in fleet.candidates] == [0] * 5
    assert fleet.rifs == [0] * 5


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.code)
async def test_when_all_refuse_the_last_refusal_is_the_answer(error: CapameshError) -> None:
    fleet = Fleet([failing(Overloaded("first"))], [failing(error)])
    with pytest.raises(type(error)) as caught:
        await fleet.dispatch.infer(call(), FAR_S)
    assert caught.value is error
    assert fleet.asked == [1, 1]
    assert fleet.rifs == [0, 0]


@pytest.mark.parametrize("error", UNKNOWN, ids=lambda error: error.code)
async def test_a_failure_of_unknown_outcome_is_retried_exactly_once(error: CapameshError) -> None:
    fleet = Fleet([failing(error)], [echo])
    assert (await fleet.dispatch.infer(call(), FAR_S)).attempts == 2
    fleet = Fleet([failing(error)], [failing(error)], [echo])
    with pytest.raises(type(error)):
        await fleet.dispatch.infer(call(), FAR_S)
    assert fleet.asked == [1, 1, 0]
    assert [candidate.failed for candidate in fleet.candidates] == [1, 1, 0]
    assert fleet.rifs == [0, 0, 0]


async def test_refusals_do_not_use_up_the_retry() -> None:
    full, lost = failing(Overloaded("full")), failing(LinkLost("gone"))
    fleet = Fleet([full], [lost], [full], [echo])
    assert (await fleet.dispatch.infer(call(), FAR_S)).attempts == 4
    fleet = Fleet([full], [lost], [full], [lost], [echo])
    with pytest.raises(LinkLost):
        await fleet.dispatch.infer(call(), FAR_S)
    assert fleet.asked == [1, 1, 1, 1, 0]


async def test_one_node_alone_is_not_asked_again_after_it_failed() -> None:
    fleet = Fleet([failing(LinkLost("gone")), echo])
    with pytest.raises(LinkLost, match="gone"):
        await fleet.dispatch.infer(call(), FAR_S)
    assert fleet.asked == [1]


@pytest.mark.parametrize("error", FINAL, ids=lambda error: error.code)
async def test_the_caller_s_own_fault_is_never_retried(error: CapameshError) -> None:
    fleet = Fleet([failing(error)], [echo])
    with pytest.raises(type(error)) as caught:
        await fleet.dispatch.infer(call(), FAR_S)
    assert caught.value is error
    assert fleet.asked == [1, 0]
    assert fleet.rifs == [0, 0]


@pytest.mark.parametrize("code", ["local_error", "config_error", "model_invalid", "error", "news"])
async def test_what_is_local_to_a_node_is_a_failed_node_to_the_router(code: str) -> None:
    fleet = Fleet([failing(from_wire(code, "its disk is full"))], [echo])
    assert (await fleet.dispatch.infer(call(), FAR_S)).attempts == 2
    assert [candidate.failed for candidate in fleet.candidates] == [1, 0]


@pytest.mark.parametrize(
    "reply",
    [
        garbage(),
        garbage(b""),
        garbage(b"\x80"),
        garbage(b"\x81\xa1v" + b"\x91" * 1000 + b"\xc0"),
        garbage(answer_of("1", fp32("y", [1, 2])).meta, b"short"),
    ],
)
async def test_an_answer_that_is_none_counts_as_a_failed_node(reply: Reply) -> None:
    fleet = Fleet([reply], [echo])
    assert (await fleet.dispatch.infer(call(), FAR_S)).attempts == 2
    assert [candidate.failed for candidate in fleet.candidates] == [1, 0]
    fleet = Fleet([reply], [reply])
    with pytest.raises(ProtocolViolation):
        await fleet.dispatch.infer(call(), FAR_S)
    assert fleet.rifs == [0, 0]


async def test_the_deadline_ends_the_wait_and_cancels_the_request() -> None:
    fleet = Fleet([hang], [echo])
    with pytest.raises(DeadlineExceeded, match="no answer for model 'm' before"):
        await fleet.dispatch.infer(call(), asyncio.get_running_loop().time())
    assert fleet.links[0].cancelled.is_set()
    assert fleet.asked == [1, 0]
    assert fleet.rifs == [0, 0]


async def test_the_budget_sent_is_the_time_that_is_left() -> None:
    async def slow_and_full(_: object, __: object) -> object:
        fleet.now_s += 40.0
        raise Overloaded("full")

    fleet = Fleet([slow_and_full], [slow_and_full], [slow_and_full], [echo])
    fleet.dispatch = Dispatch(
        fleet.view,
        fleet.policy,
        clock=lambda: FAR_S - 100.0 + fleet.now_s,
        limits=Limits(),
        telemetry=fleet.telemetry,
    )
    await fleet.dispatch.infer(call(), FAR_S)
    assert [link.budgets_ms for link in fleet.links] == [[100_000], [60_000], [20_000], [1]]


async def test_draining_suspected_and_unlinked_nodes() -> None:
    fleet = Fleet([echo], [echo], [echo], [echo], [echo])
    unlinked, draining, suspected, goaway, _ = fleet.candidates
    unlinked.link = None
    draining.is_draining = True
    suspected.is_suspected = True
    fleet.links[3].is_usable = False
    await fleet.dispatch.infer(call(), FAR_S)
    assert fleet.policy.seen == [["c:1", "e:1"]]
    assert goaway.rif == 0


async def test_hosts_that_cannot_be_reached_are_not_the_same_as_no_hosts() -> None:
    fleet = Fleet([echo], [echo])
    for candidate in fleet.candidates:
        candidate.link = None
    with pytest.raises(NoCandidate, match="model 'm' is hosted, but no node that has it can be"):
        await fleet.dispatch.infer(call(), FAR_S)
    with pytest.raises(ModelNotFound, match="model 'm' has no version '7'; there are 1"):
        await fleet.dispatch.infer(call("m", "7"), FAR_S)
    with pytest.raises(ModelNotFound, match="no node hosts model 'x'; hosted models: m"):
        await fleet.dispatch.infer(call("x"), FAR_S)
    with pytest.raises(ModelNotFound, match="hosted models: none yet"):
        await Fleet().dispatch.infer(call(), FAR_S)


async def test_a_node_that_dials_and_whose_link_is_down_still_hosts_its_models() -> None:
    fleet = Fleet()
    fleet.view.apply([Joined(advert("A"))])
    with pytest.raises(NoCandidate, match="model 'm' is hosted"):
        await fleet.dispatch.infer(call(), FAR_S)


async def test_the_version_asked_for_decides_who_is_asked_and_empty_is_the_newest() -> None:
    fleet = Fleet([echo])
    fleet.view.apply([Joined(advert("B", "b:1", models=[offer(version="2")]))])
    newer = linked(fleet.candidates[1])
    await fleet.dispatch.infer(call("m", "1"), FAR_S)
    await fleet.dispatch.infer(call("m", ""), FAR_S)
    assert [asked.version for asked in fleet.links[0].calls] == ["1"]
    assert [asked.version for asked in newer.calls] == [""]


async def test_attempts_that_failed_are_counted_by_code() -> None:
    fleet = Fleet([failing(Overloaded("full"))], [failing(LinkLost("gone"))], [echo])
    await fleet.dispatch.infer(call(), FAR_S)
    text = fleet.telemetry.exposition().decode()
    assert 'capamesh_attempts_failed_total{code="overloaded",model="m"} 1.0' in text
    assert 'capamesh_attempts_failed_total{code="link_lost",model="m"} 1.0' in text


async def test_a_node_that_retires_meanwhile_is_let_go_of_once_when_it_has_answered() -> None:
    may_answer = asyncio.Event()

    async def later(asked: object, budget_ms: object) -> object:
        await may_answer.wait()
        return await echo(asked, budget_ms)

    fleet = Fleet([later])
    told: list[str] = []
    tasks = [asyncio.create_task(fleet.dispatch.infer(call(), FAR_S)) for _ in range(3)]
    await fleet.links[0].asked.wait()
    while fleet.rifs != [3]:
        await asyncio.sleep(0)
    fleet.candidates[0].retire(lambda: told.append("idle"))
    with pytest.raises(NoCandidate):
        await fleet.dispatch.infer(call(), FAR_S)
    assert told == []
    may_answer.set()
    assert [(await task).attempts for task in tasks] == [1, 1, 1]
    assert told == ["idle"]


async def test_whatever_nodes_do_nothing_stays_in_flight_and_nobody_is_asked_twice() -> None:
    replies = [echo, hang, garbage(), *map(failing, [*REFUSALS, *UNKNOWN, *FINAL])]
    for seed in range(150):
        chance = random.Random(seed)
        fleet = Fleet(*[[chance.choice(replies)] for _ in range(chance.randint(1, 5))])
        dispatch = Dispatch(
            fleet.view,
            PowerOfTwo(chance),
            clock=lambda: 0.0,
            limits=Limits(),
            telemetry=fleet.telemetry,
        )
        task = asyncio.create_task(dispatch.infer(call(), FAR_S))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert not isinstance(result, BaseException) or isinstance(
            result, CapameshError | asyncio.CancelledError
        )
        assert max(fleet.asked) <= 1
        assert set(fleet.rifs) == {0}
        assert sum(candidate.failed for candidate in fleet.candidates) <= 2
