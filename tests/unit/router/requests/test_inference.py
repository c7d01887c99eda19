"""An inference request without any protocol on a wire: what it becomes, what it is told, what is counted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fleet_fakes import (
    Fleet,
    NullLog,
    after,
    answer_of,
    answering,
    echo,
    failing,
    fp32,
    hang,
    offer,
)

from capamesh.protocol.errors import CapameshError, NoEndpoint, Overloaded, RunFailed, Unsatisfiable
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.oip import InferRequest
from capamesh.protocol.tensors import Limits
from capamesh.router.balancing.explanation import Explanation
from capamesh.router.fleet.request_counts import RequestCounts
from capamesh.router.requests.call import Outcome
from capamesh.router.requests.inference import InferenceRequest, InferenceService, Target
from capamesh.router.resilience.health import CircuitState
from capamesh.router.telemetry.ended import EndedRequests
from capamesh.router.telemetry.tracing import RequestTimes, TraceParent

pytestmark = pytest.mark.pure

M = ModelName("m")


class Spoken(InferenceRequest):
    """A request whose answer is said aloud."""

    def __init__(self, service: InferenceService, target: Target) -> None:
        super().__init__(service, target)
        self.said: list[str] = []

    def complete(self, outcome: Outcome) -> None:
        self._is_over = True
        self.count_answer(outcome)
        self.said.append(f"answered by {outcome.replica.endpoint.peer}")

    def _render_error(self, error: CapameshError, explanation: Explanation | None) -> None:
        self._is_over = True
        why = "" if explanation is None else f", version {explanation.version}"
        self.said.append(f"{error.code}{why}")


class Ended(EndedRequests):
    """One who is told of all requests that failed, took more than 2 s, or have a trace."""

    def ended(self, times: RequestTimes) -> None:
        self.told.append(times)


class World:
    def __init__(self, *script: Any, **target: Any) -> None:
        self.fleet = Fleet(*([list(script)] if script else []))
        self.log = NullLog()
        self.shut_out = ""
        self.told: list[RequestTimes] = []
        ended: Any = Ended(clock=lambda: 0.0, wall_clock=lambda: 0.0)
        ended.slow_s, ended.has_tracer, ended.told = 2.0, True, self.told
        service = InferenceService(
            self.fleet.view,
            self.fleet.routing,
            self.fleet.telemetry,
            30.0,
            Limits(),
            self.log,  # type: ignore[arg-type]
            standing=self,
            ended=ended,
            repeated=self.fleet.core.repeated,
        )
        wanted = {"model": M, "version": ModelVersion(""), **target}
        self.request = Spoken(service, Target(**wanted))

    def submit(self, model: str = "m", **parameters: object) -> None:
        inputs = (fp32("x", [1, 2]),)
        self.request.submit(InferRequest(model, "", "", inputs, parameters=parameters))  # type: ignore[arg-type]

    @property
    def counts(self) -> RequestCounts:
        return self.fleet.view.hosted(M, ModelVersion("1")).requests

    async def settled(self) -> list[str]:
        for _ in range(5):
            await asyncio.sleep(0)
        return self.request.said

    def counted(self) -> dict[str, float]:
        text = self.fleet.telemetry.exposition().decode()
        lines = [line for line in text.splitlines() if line.startswith("capamesh_requests_total")]
        return {line.split('code="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}


async def test_request_is_answered_and_counted_once() -> None:
    world = World(echo)
    world.submit(timeout=2_000_000, priority=3)
    assert await world.settled() == ["answered by A"]
    assert world.fleet.links[0].budgets_ms == [2000]
    assert world.fleet.links[0].calls[0].priority == 3
    assert world.counted() == {"ok": 1.0}


async def test_request_whose_client_leaves_is_counted_once_as_cancelled() -> None:
    world = World(hang)
    world.submit()
    world.request.cancel()
    world.request.cancel()
    assert await world.settled() == []
    assert world.counted() == {"cancelled": 1.0}


@pytest.mark.parametrize("is_explained", [False, True])
async def test_error_is_counted_and_explained_if_that_was_asked_for(is_explained: bool) -> None:
    world = World(failing(Overloaded("full", 1.0)), is_explained=is_explained)
    world.submit()
    why = ", version 1" if is_explained else ""
    assert await world.settled() == [f"overloaded{why}"]
    assert world.counted() == {"overloaded": 1.0}


async def test_peers_failure_after_the_router_was_shut_out_is_told_as_that() -> None:
    world = World(failing(Overloaded("full", 1.0)))
    world.submit()
    world.shut_out = "the token has expired"
    assert await world.settled() == ["shut_out"]


async def test_bug_ends_in_an_error_of_the_router_and_in_the_log() -> None:
    world = World(echo)

    def crash(*_: object) -> None:
        raise RuntimeError("a bug")

    world.fleet.routing.pipeline = SimpleNamespace(start=crash)  # type: ignore[assignment]
    world.submit()
    assert world.request.said == ["local_error"]
    assert world.log.events == ["request_crashed"]


# what is counted of a version


async def test_answer_is_counted_with_its_version_rows_and_times() -> None:
    answer = answer_of("1", fp32("y", [1, 2], [3, 4], [5, 6]))
    world = World(after(0.75, answering(answer)))
    world.submit()
    await asyncio.sleep(1.0)
    counts = world.counts
    assert (counts.answered, counts.rows, counts.failed) == (1, 3, 0)
    assert (counts.answered_s, counts.last_s) == (pytest.approx(0.75), pytest.approx(0.75))
    assert (counts.queue_us, counts.run_us) == (3, 4)


async def test_failure_counts_where_a_node_failed_or_none_was_free_but_not_what_the_caller_did_wrong() -> (
    None
):
    world = World(after(0.25, failing(RunFailed("broken"))))
    world.submit()
    await asyncio.sleep(1.0)
    assert (world.counts.failed, world.counts.failed_s) == (1, pytest.approx(0.25))
    full = World(echo)
    full.fleet.links[0].refusal = Overloaded("full", 1.0)
    full.submit()
    assert (full.request.said, full.counts.failed) == (["overloaded"], 1)
    wrong = World(echo)
    wrong.submit(timeout="soon")
    assert (wrong.request.said, wrong.counts.failed) == (["invalid_request"], 0)


@pytest.mark.parametrize(("model", "code"), [("m", "invalid_request"), ("x", "model_not_found")])
async def test_wrong_request_for_a_model_that_nobody_hosts_is_told_that_first(
    model: str, code: str
) -> None:
    world = World(echo, model=ModelName(model))
    world.submit(timeout="soon")
    assert world.request.said == [code]


# who is told of its end


async def test_request_that_is_traced_is_told_with_its_attempts() -> None:
    parent = TraceParent("1" * 32, "2" * 16, is_sampled=True)
    world = World(echo, parent=parent)
    world.submit()
    await asyncio.sleep(1.0)
    (times,) = world.told
    assert (times.model, times.version, times.code, times.parent) == ("m", "1", "ok", parent)
    (attempt,) = times.attempts
    assert (attempt.peer, attempt.outcome) == ("A", "answered")
    assert times.started_s <= attempt.sent_s <= attempt.ended_s == times.ended_s
    assert attempt.queue_s + attempt.run_s > 0
    (call,) = world.fleet.links[0].calls
    assert call.trace == f"00-{'1' * 32}-{'2' * 16}-01"


async def test_version_that_is_named_is_the_one_of_which_it_is_told_whether_to_wait_helps() -> None:
    world = World(echo)  # A hosts version 1
    world.fleet.node("B", echo, models=(offer(version="2"),))
    world.fleet.endpoints[0].health.hold(CircuitState.FORCED_OPEN)
    world.fleet.links[1].end()
    service = world.request._service
    told = [
        type(service.nobody(Target(M, ModelVersion(version)), NoEndpoint("nobody can be asked")))
        for version in ("1", "2", "")
    ]
    assert told == [Unsatisfiable, NoEndpoint, NoEndpoint]
