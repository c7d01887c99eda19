"""One request's attempts on links that a test drives: what is sent, told, withdrawn, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from awaited_calls import outcome_of
from fleet_fakes import (
    Fleet,
    Reply,
    after,
    answer_of,
    answering,
    call,
    echo,
    failing,
    fp32,
    garbage,
    hang,
    in_virtual_time,
    offer,
    telling,
)

from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LinkLost,
    LocalError,
    ModelNotFound,
    ModelUnavailable,
    NoEndpoint,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RunFailed,
    SequenceLost,
    SequenceUnknown,
    TooLarge,
)
from capamesh.protocol.links.calls import InferCall, LoadReport
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.policies.request_shape import RequestShape
from capamesh.router.requests.call import NO_OPTIONS, Call, Outcome
from capamesh.router.resilience.health import CircuitState
from capamesh.router.resilience.link_wait import MAX_WAITING
from capamesh.router.rules.constraints import ANYWHERE
from capamesh.router.rules.model_rules import ModelRules, RoutingRules

REFUSALS = [Overloaded("full", 0.5), Draining("leaving"), ModelUnavailable("loading")]
UNKNOWN = [
    LinkLost("gone"),
    RunFailed("crashed"),
    ProtocolViolation("odd"),
    PeerError("?"),
    NoEndpoint("a router said that?"),
]
FINAL = [InvalidRequest("bad"), TooLarge("big")]
UNTRUE = [ModelNotFound("no"), Cancelled("who?"), DeadlineExceeded("late")]
"""The node's fault, with so much time left."""
ALONE = RoutingRules(ModelRules(is_hedged=False))


def code(error: CapameshError) -> str:
    return error.code


def infer(
    fleet: Fleet, asked: InferCall | None = None, allowed_s: float = 30.0, **named: Any
) -> Coroutine[Any, Any, Outcome]:
    """Dispatch a request as `Routing` does, without its controller."""
    asked = asked or call("m", "1")
    served = fleet.served()
    shape = RequestShape(asked.model, served.version, 8, "", asked.sequence is not None)
    deadline_s = fleet.clock() + allowed_s
    picker = RequestPicker(served, ANYWHERE, shape, deadline_s)
    sent = Call(asked, NO_OPTIONS, deadline_s, **named)
    return outcome_of(lambda responder: fleet.dispatch.start(sent, picker, responder))


def begin(fleet: Fleet, **named: Any) -> asyncio.Task[Outcome]:
    return asyncio.create_task(infer(fleet, **named))


def learn(fleet: Fleet, usual_s: float = 0.01) -> None:
    """Let the model have answered 20 requests in `usual_s`, so that it is known when one is slow."""
    served = fleet.served()
    for _ in range(20):
        served.window.add(usual_s, fleet.clock())
        served.hedging.sent(fleet.clock())


async def supervisor(count: int = 1) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_budget_sent_is_the_time_that_is_left_and_never_none() -> None:
    full = failing(Overloaded("full"))
    fleet = Fleet([after(20.0, full)], [after(9.9995, full)], [echo], rules=ALONE)
    assert (await infer(fleet)).attempts == 3
    assert [link.budgets_ms for link in fleet.links] == [[30_000], [10_000], [1]]


# another node


@pytest.mark.parametrize("error", [*REFUSALS, *UNKNOWN], ids=code)
async def test_refusal_moves_on_for_nothing_and_what_may_have_run_for_a_token(
    error: CapameshError,
) -> None:
    failures = 0 if error in REFUSALS else 1
    fleet = Fleet([failing(error)], [failing(error)], [echo], [echo])
    tokens = fleet.served().budget.balance(0.0) + 0.2  # what a first attempt brings in
    assert (await infer(fleet)).attempts == 3
    assert (fleet.asked, fleet.counts) == ([1, 1, 1, 0], {})
    assert fleet.served().budget.balance(0.0) == pytest.approx(tokens - 2 * failures)
    assert [endpoint.failed for endpoint in fleet.endpoints] == [failures, failures, 0, 0]


@pytest.mark.parametrize("hints_s", [(3, 1, 2, 9, 9), (0, 3, 1, 9, 9), (1, 3, 0, 0, 9)])
async def test_softest_refusal_that_says_when_is_the_answer_when_too_many_are_full(
    hints_s: tuple[float, ...],
) -> None:
    fleet = Fleet(*[[failing(Overloaded(f"come in {hint_s}", hint_s))] for hint_s in hints_s])
    with pytest.raises(Overloaded, match="come in 1") as caught:
        await infer(fleet)
    assert caught.value.retry_after_s == 1
    assert (fleet.asked, fleet.counts) == ([1, 1, 1, 1, 0], {})


@pytest.mark.parametrize("error", FINAL, ids=code)
async def test_caller_s_own_fault_is_believed_of_two_nodes_and_blamed_on_neither(
    error: CapameshError,
) -> None:
    fleet = Fleet([failing(error)], [failing(error)], [echo])
    with pytest.raises(type(error)) as caught:
        await infer(fleet)
    assert (caught.value is error, fleet.asked, fleet.counts) == (True, [1, 1, 0], {})
    assert all(replica.health.is_full for replica in fleet.replicas)
    assert not any(endpoint.failed for endpoint in fleet.endpoints)


@pytest.mark.parametrize(
    ("other", "kind"), [("evil", InvalidRequest), ("honest", DeadlineExceeded)]
)
async def test_word_of_one_invite_is_no_verdict_at_the_deadline_where_there_is_another(
    other: str, kind: type[CapameshError]
) -> None:
    fleet = Fleet(invites={"A": "evil", "B": other}, rules=ALONE)
    fleet.node("A", failing(InvalidRequest("bad")))
    fleet.node("B", hang)
    with pytest.raises(kind):
        await infer(fleet, allowed_s=1.0)
    assert (fleet.asked, fleet.counts) == ([1, 1], {})


async def test_wrong_request_that_the_router_sees_through_is_asked_of_no_other_node() -> None:
    fleet = Fleet([failing(InvalidRequest("bad"))], [echo])
    for wrong in (
        call("m", "1").replace(inputs=(fp32("z", [1, 2]),)),
        call("m", "1").replace(inputs=(fp32("x", [1, 2, 3]),)),
        call("m", "1").replace(inputs=(Tensor("x", Datatype.INT8, (1, 2), b"12"),)),
    ):
        with pytest.raises(InvalidRequest):
            await infer(fleet, wrong)
    assert fleet.asked == [3, 0]
    await infer(fleet)
    assert fleet.asked == [4, 1]


@pytest.mark.parametrize("error", [*FINAL, *UNTRUE], ids=code)
async def test_node_that_blames_callers_at_once_fails_no_request_and_soon_gets_none(
    error: CapameshError,
) -> None:
    fleet = Fleet([failing(error)], [after(0.01, echo)], [after(0.01, echo)], policy="prequal")
    for link in fleet.links:
        link.load_reply = telling(LoadReport(0, 0, 8, 0, 10_000, 0, 10_000))
    for _ in range(300):
        assert (await infer(fleet)).answer.version == "1"
        await asyncio.sleep(0.02)
    is_refusal = isinstance(error, ModelNotFound)  # left alone for half a second each time
    assert 0 < fleet.asked[0] < (20 if is_refusal else 10)
    assert fleet.endpoints[0].failed == (0 if is_refusal else fleet.asked[0])
    await asyncio.sleep(1.0)
    assert fleet.counts == {}


Y = fp32("y", [1, 2])
BAD_ANSWERS = {
    "no map": garbage(),
    "nothing": garbage(b""),
    "no fields": garbage(b"\x80"),
    "deep": garbage(b"\x81\xa1v" + b"\x91" * 1000 + b"\xc0"),
    "short": garbage(answer_of("1", Y).meta, b"short"),
    "a load below 0": answering(answer_of("1", Y, load=LoadReport(in_flight=-1))),
    "another version": answering(answer_of("2", Y)),
    "another name": answering(answer_of("1", fp32("z", [1, 2]))),
    "no output": answering(answer_of("1")),
    "one output more": answering(answer_of("1", Y, fp32("z", [1, 2]))),
    "another datatype": answering(
        answer_of("1", Tensor.from_numpy("y", np.array([[1, 2]], np.int64)))
    ),
    "another shape": answering(answer_of("1", fp32("y", [1, 2, 3]))),
    "another rank": answering(answer_of("1", Tensor.from_numpy("y", np.ones(2, np.float32)))),
}


@pytest.mark.parametrize("bad", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_answer_that_is_none_or_not_what_its_node_advertises_is_another_node_s_to_give(
    bad: Reply,
) -> None:
    fleet = Fleet([bad], [echo])
    outcome = await infer(fleet)
    assert (outcome.replica, outcome.attempts) == (fleet.replicas[1], 2)
    (first, _) = fleet.endpoints
    assert (first.answered, first.failed) == (0, 1)
    assert first.health.state(0.0) is CircuitState.INHIBITED
    assert first.health.reason.startswith("protocol_violation: ")
    text = fleet.telemetry.exposition().decode()
    assert 'capamesh_attempts_failed_total{code="protocol_violation",model="m"} 1.0' in text
    alone = Fleet([bad])
    with pytest.raises(ProtocolViolation):
        await infer(alone)
    assert alone.counts == fleet.counts == {}


# what was never sent


GONE, RESET, FILLED = None, LinkLost("the link has ended: reset"), Overloaded("64 MB wait for it")
"""GONE: the link goes between the choice and the sending, as when another request's failure ended it."""


@pytest.mark.parametrize(
    ("refusal", "sequence"),
    [
        *((each, None) for each in (GONE, RESET, FILLED)),
        *((each, SequenceMark(1)) for each in (GONE, RESET)),  # to it, a full link is a full node
    ],
)
async def test_request_that_could_not_be_sent_goes_elsewhere_without_a_token(
    refusal: CapameshError | None, sequence: SequenceMark | None
) -> None:
    fleet = Fleet([echo], [echo])
    tokens = fleet.served().budget.balance(0.0)
    fleet.links[0].refusal = refusal
    if refusal is GONE:
        sent = fleet.in_order.sent

        def gone(to: Any, now_s: float) -> None:
            if to is fleet.replicas[0]:
                to.endpoint.link = None
            sent(to, now_s)

        fleet.in_order.sent = gone  # type: ignore[method-assign]
    outcome = await infer(fleet, call("m", "1").replace(sequence=sequence))
    assert (outcome.replica, outcome.attempts) == (fleet.replicas[1], 2)
    assert (fleet.asked, fleet.counts) == ([0, 1], {})
    assert fleet.served().budget.balance(0.0) == tokens + 0.2


async def test_node_that_does_not_advertise_the_output_that_is_asked_for_is_not_sent_it() -> None:
    fleet = Fleet([echo], [echo])
    first = fleet.replicas[0]
    first.offer = replace(first.offer, outputs=())
    outcome = await infer(fleet, call("m", "1", "y"))
    assert (outcome.replica, fleet.asked) == (fleet.replicas[1], [0, 1])


# slow ones


@pytest.mark.parametrize("winner", [0, 1])
async def test_hedge_and_its_first_race_and_the_loser_is_withdrawn(winner: int) -> None:
    fleet = Fleet([hang], [hang])
    learn(fleet)
    task = begin(fleet)
    for seconds, asked in ((0.008, [1, 0]), (0.007, [1, 1])):
        await asyncio.sleep(seconds)
        assert fleet.asked == asked
    won, lost = fleet.links[winner], fleet.links[1 - winner]
    assert won.asks[0].echo()
    assert lost.asks[0].ended == "withdrawn"  # in that very call
    assert (len(lost.withdrawn), won.withdrawn, lost.asks[0].echo()) == (1, [], False)
    outcome = await task
    assert (outcome.replica, outcome.attempts) == (fleet.replicas[winner], 2)
    assert ([endpoint.failed for endpoint in fleet.endpoints], fleet.counts) == ([0, 0], {})


async def test_hedges_that_get_no_token_are_not_sent() -> None:
    fleet = Fleet([hang], [hang], [hang])
    learn(fleet)
    tasks = [begin(fleet) for _ in range(40)]
    await supervisor()
    await asyncio.sleep(0.015)
    assert fleet.asked == [40, 3, 0]
    learn(fleet)  # once a request, whatever comes of it: none is sent for the tokens of later ones
    fleet.links[0].end()
    await asyncio.sleep(0.03)
    assert [len(link.asks) for link in fleet.links] == [40, 40, 0]
    for task in tasks:
        task.cancel()


async def test_silence_leads_to_another_node_and_inhibits_the_silent_one() -> None:
    fleet = Fleet([hang], [echo], rules=ALONE)
    learn(fleet)
    outcome = await infer(fleet)
    assert (outcome.replica, outcome.attempts) == (fleet.replicas[1], 2)
    assert 0.05 <= fleet.clock() < 0.06
    health = fleet.endpoints[0].health
    assert health.state(fleet.clock()) is CircuitState.INHIBITED
    assert (health.reason, fleet.links[0].asks[0].ended) == ("silent for 50 ms", "withdrawn")
    assert (await infer(fleet)).replica is fleet.replicas[1]
    assert (fleet.asked, fleet.counts) == ([1, 2], {})


async def test_silent_node_that_spoke_meanwhile_is_there_and_only_its_model_hangs() -> None:
    fleet = Fleet([hang], [echo], rules=ALONE)
    learn(fleet)
    fleet.links[0].load_reply = telling(LoadReport(1, 0, 8, 9, 10, 0))
    task = begin(fleet)
    await asyncio.sleep(0.01)
    fleet.prober.ask([fleet.replicas[0]])
    await task
    now_s = fleet.clock()
    assert fleet.endpoints[0].health.state(now_s) is CircuitState.CLOSED
    assert fleet.replicas[0].health.state(now_s) is CircuitState.INHIBITED


# without a link


async def test_request_waits_for_the_next_link_and_is_sent_in_the_turn_in_which_it_is_up() -> None:
    fleet = Fleet([echo], [echo])
    for link in list(fleet.links):
        link.end("the router was frozen")
    tasks = [begin(fleet) for _ in range(3)]
    await supervisor()
    assert fleet.counts == {"waiting": 3}
    await asyncio.sleep(0.05)
    relinked = fleet.relink(1, echo)
    assert len(relinked.asks) == 3
    assert fleet.counts["hosts"] == 3
    for task in tasks:
        outcome = await task
        assert (outcome.replica, outcome.attempts) == (fleet.replicas[1], 1)
    assert fleet.clock() == 0.05
    assert fleet.counts == {}


async def test_node_whose_link_was_lost_of_late_is_waited_for_as_long_as_a_restart_takes() -> None:
    fleet = Fleet([echo])
    await asyncio.sleep(100.0)
    fleet.links[0].end("killed")
    fleet.balancer.unlinked(fleet.endpoints[0], fleet.clock())
    task = begin(fleet)
    await asyncio.sleep(12.0)
    late = begin(fleet)
    await supervisor()
    assert fleet.counts == {"waiting": 2}
    fleet.relink(0, echo)
    assert [(await each).attempts for each in (task, late)] == [1, 1]
    fleet.links[-1].end("killed")
    fleet.balancer.unlinked(fleet.endpoints[0], fleet.clock())
    for waited_s in (20.0, 3.0):  # which is long enough, and not begun again by each request
        began_s = fleet.clock()
        with pytest.raises(NoEndpoint, match=rf"waited {waited_s} s for a link"):
            await infer(fleet)
        assert fleet.clock() - began_s == pytest.approx(waited_s)


async def test_bug_in_one_that_waits_for_a_link_is_its_own() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    fleet = Fleet([echo])
    fleet.links[0].end("reset")
    unpackable = call("m", "1").replace(sequence=SequenceMark("\ud800", is_start=True))
    tasks = [begin(fleet), begin(fleet, asked=unpackable), begin(fleet)]
    await supervisor()
    fleet.relink(0, echo)
    await asyncio.wait(tasks)
    assert [type(task.exception()) for task in tasks] == [type(None), LocalError, type(None)]
    assert [type(what["exception"]) for what in complaints] == [UnicodeEncodeError]
    assert fleet.counts == {}


async def test_requests_that_wait_for_a_link_are_bounded_and_the_others_fail_at_once() -> None:
    fleet = Fleet([echo])
    fleet.links[0].end("killed")
    tasks = [begin(fleet) for _ in range(MAX_WAITING + 2)]
    await supervisor(2)
    assert fleet.counts == {"waiting": MAX_WAITING}
    assert [task.done() for task in tasks].count(True) == 2
    fleet.relink(0, echo)
    await asyncio.wait(tasks)
    assert [type(task.exception()) for task in tasks].count(NoEndpoint) == 2
    assert fleet.counts == {}


async def test_node_that_retires_meanwhile_is_let_go_of_once_when_it_has_answered() -> None:
    fleet = Fleet([hang])
    reported: list[str] = []
    tasks = [begin(fleet) for _ in range(3)]
    await supervisor()
    fleet.endpoints[0].retire(lambda: reported.append("idle"))
    with pytest.raises(NoEndpoint):
        await infer(fleet)
    for ask in fleet.links[0].asks:
        assert reported == []
        ask.echo()
    assert reported == ["idle"]
    assert [(await task).attempts for task in tasks] == [1, 1, 1]


# requests that must not run twice


SEQUENCE = call("m", "1").replace(sequence=SequenceMark(7, is_start=True))


def once(case: str, *scripts: Reply) -> tuple[Fleet, InferCall, dict[str, Any]]:
    """Return a fleet, a request of it that must not run twice, and what else to say."""
    fleet = Fleet(rules=RoutingRules(ModelRules(is_retried=case != "rules")))
    for at, (peer, script) in enumerate(zip("ABCDE", scripts, strict=False)):
        is_said = case == "all say so" or (case == "one says so" and at == 1)
        fleet.node(peer, script, models=(offer(is_idempotent=False) if is_said else offer(),))
    return fleet, SEQUENCE if case == "sequence" else call("m", "1"), {"is_copy": case == "copy"}


ONCE = ["rules", "all say so", "one says so", "sequence", "copy"]


@pytest.mark.parametrize("case", ONCE)
async def test_request_that_must_not_run_twice_goes_elsewhere_when_refused_and_not_for_silence(
    case: str,
) -> None:
    fleet, asked, named = once(case, after(1.0, echo), echo)
    learn(fleet)
    assert (await infer(fleet, asked, **named)).attempts == 1
    assert (fleet.asked, fleet.counts) == ([1, 0], {})
    if case not in {"sequence", "copy"}:
        fleet, asked, named = once(case, failing(Overloaded("full")), echo)
        assert (await infer(fleet, asked, **named)).attempts == 2


@pytest.mark.parametrize(
    "lie",
    [failing(InvalidRequest("bad")), failing(RunFailed("no")), hang],
    ids=["wrong", "failed", "silent"],
)
@pytest.mark.parametrize("honest", ["H", "HI"])
async def test_liars_who_say_that_requests_may_not_run_twice_fail_none(
    honest: str, lie: Reply
) -> None:
    fleet = Fleet(invites={"A": "evil", "B": "evil", "H": "one", "I": "two"})
    for peer in "AB":
        fleet.node(peer, lie, models=(offer(is_idempotent=False),))
    for peer in honest:
        fleet.node(peer)
    learn(fleet)
    for _ in range(5):
        assert (await infer(fleet)).peer in honest
    assert fleet.counts == {}


async def test_request_that_its_own_nodes_may_not_run_twice_goes_to_none_of_them_again() -> None:
    fleet = Fleet(invites={"A": "own", "B": "own", "E": "other"})
    for peer in "AB":
        fleet.node(peer, failing(RunFailed("crashed")), models=(offer(is_idempotent=False),))
    fleet.node("E")
    assert (await infer(fleet)).peer == "E"
    fleet.endpoints[2].link = None
    with pytest.raises(RunFailed):
        await infer(fleet, allowed_s=2.0)
    assert fleet.asked[:2] == [1, 1]  # of the second request B alone


# a sequence that was lost


async def test_sequence_that_a_node_has_lost_is_reported_as_lost_and_a_mistake_as_a_mistake() -> (
    None
):
    unknown = failing(SequenceUnknown("it has not started here"))
    fleet = Fleet([echo, unknown, unknown, echo, echo, unknown])
    step = call("m", "1").replace(sequence=SequenceMark(7))
    await infer(fleet, SEQUENCE)
    with pytest.raises(SequenceLost, match="sequence 7 of model 'm' was lost: its node restarted"):
        await infer(fleet, step)
    with pytest.raises(SequenceUnknown):
        await infer(fleet, step.replace(sequence=SequenceMark(8)))
    await infer(fleet, SEQUENCE)
    await infer(fleet, step.replace(sequence=SequenceMark(7, is_end=True)))
    with pytest.raises(SequenceUnknown):
        await infer(fleet, step)
    assert fleet.replicas[0].health.is_full
    assert fleet.counts == {}


# nothing is left behind


class Body(bytearray):
    """Bytes of which it can be seen when they are gone."""


def held_call(**changes: Any) -> tuple[InferCall, weakref.ref[Body]]:
    body = Body(8)
    tensor = Tensor("x", Datatype.FP32, (1, 2), memoryview(body))
    return call("m", "1").replace(inputs=(tensor,), **changes), weakref.ref(body)


async def ends(fleet: Fleet, asked: InferCall, cancel_s: float | None) -> str:
    """Run a request to its end, and return how that was."""
    task = asyncio.create_task(infer(fleet, asked, allowed_s=1.0))
    del asked
    await asyncio.wait([task], timeout=cancel_s)
    task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return "answered" if error is None else getattr(error, "code", "a bug")


def unsent(fleet: Fleet) -> None:
    fleet.links[0].end()
    fleet.endpoints[0].link = fleet.links[0]  # type: ignore[assignment]
    fleet.links[0].is_usable = True


def fail(kind: type[CapameshError]) -> Reply:
    """Fail by an error that nobody else holds: it will hold the frames through which it went."""
    return lambda ask: asyncio.get_running_loop().call_soon(lambda: ask.fail(kind("so it is")))


FULL, LOST = fail(Overloaded), fail(LinkLost)
ENDINGS: dict[str, tuple[list[Reply], Callable[[Fleet], object], str]] = {
    "answered": ([echo], learn, "answered"),
    "retried": ([LOST, echo], learn, "answered"),
    "hedged": ([after(0.04, echo), hang], learn, "answered"),
    "unsent, then answered": ([echo, echo], unsent, "answered"),
    "unsent": ([echo], unsent, "link_lost"),
    "garbage, then answered": ([garbage(), echo], learn, "answered"),
    "garbage": ([garbage()], learn, "protocol_violation"),
    "failed": ([LOST, LOST, LOST], learn, "link_lost"),
    "refused": ([FULL, FULL], learn, "overloaded"),
    "late": ([hang, hang, hang], learn, "deadline_exceeded"),
    "left": ([hang, hang], learn, "cancelled"),
    "nobody": ([], lambda fleet: fleet.node("A", models=(offer(),)).end(), "no_endpoint"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_request_s_body_is_let_go_of_at_its_end_without_the_collector(name: str) -> None:
    scripts, prepare, expected = ENDINGS[name]

    @in_virtual_time
    async def scenario() -> None:
        fleet = Fleet(*[[script] for script in scripts])
        prepare(fleet)
        asked, body = held_call()
        waiting = ends(fleet, asked, 0.5 if expected == "cancelled" else None)
        del asked
        assert await waiting == expected
        await asyncio.sleep(0)
        assert body() is None
        assert fleet.counts == {}

    gc.collect()
    gc.disable()
    try:
        scenario()
    finally:
        gc.enable()
