"""Calls of jobs go through the pipeline of all requests, once each, as their tenant's, to nodes with the very file."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from fleet_fakes import Fleet, advert, echo, failing, fp32, hang, offer
from job_desk import NOW_S

from capamesh.protocol.adverts import ModelOffer, Scheduling
from capamesh.protocol.errors import (
    InvalidRequest,
    LinkLost,
    RunFailed,
    TooManyRequests,
    Unsatisfiable,
)
from capamesh.protocol.fleet import Changed, Left, LeftReason
from capamesh.protocol.ids import ModelVersion, PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.access.keys import Key, KeyRing, Scope, Verb
from capamesh.router.access.quotas import Quotas
from capamesh.router.jobs.running.fleet_nodes import LONG_WAIT_S, FleetNodes
from capamesh.router.jobs.running.nodes import BulkCall, Crowd, Ended
from capamesh.router.jobs.spec import InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.values import Job, JobId, Pinned
from capamesh.router.requests.metered import Meter

OFFER = replace(offer(), best_rows=8, row_us=100, max_rows=64)
PINNED = Pinned(ModelVersion("1"), OFFER.digest)


def job_of(tenant: str = "", **words: Any) -> Job:
    spec = JobSpec("m", InputSpec("/in", InputFormat.NPY, {"x": ("array",)}), OutputSpec(), **words)
    return Job(JobId("job-1"), tenant, spec, PINNED, JobState.RUNNING, "", NOW_S, None, 8, 1, "")


def call_of(job: Job | None = None, *, rows: int = 2, **words: Any) -> BulkCall:
    given = fp32("x", *[[1.0, 2.0]] * rows)
    return BulkCall(job or job_of(), (given,), rows, 5.0, **words)


class Core:
    """A router's core and what jobs see of it."""

    def __init__(self, *scripts: Any, models: tuple[ModelOffer, ...] = (OFFER,)) -> None:
        self.fleet = Fleet()
        for peer, script in zip("ABC", scripts, strict=False):
            self.fleet.node(peer, *script, models=models)
        self.ring = KeyRing()
        self.quotas = Quotas()
        pipeline = self.fleet.routing.pipeline
        meter = Meter(self.quotas, pipeline, self.fleet.view, clock=self.fleet.clock)
        parts = (self.fleet.view, self.fleet.balancer, pipeline, self.ring, meter)
        self.nodes = FleetNodes(*parts, clock=self.fleet.clock)

    async def ended(self, call: BulkCall) -> Ended:
        found: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.nodes.start(call, found.set_result)
        return await found

    def keys(self, *scopes: Scope, tenant: str = "t") -> None:
        keys = [Key(f"key{at}", b"", tenant, scope) for at, scope in enumerate(scopes)]
        self.ring.take(keys, self.fleet.clock(), NOW_S)
        self.quotas.tick(NOW_S, keys)


async def test_call_is_sent_once_whatever_fails() -> None:
    for error in (RunFailed("no"), LinkLost("silent"), InvalidRequest("wrong")):
        core = Core([failing(error)], [failing(error)])
        ended = await core.ended(call_of())
        assert type(ended.error) is type(error)
        assert ended.node in {"A", "B"}
        assert sum(len(link.asks) for link in core.fleet.links) == 1


async def test_call_goes_only_where_it_may() -> None:
    core = Core([echo], [echo], [echo])
    assert (await core.ended(call_of(only_at="B"))).node == "B"
    assert core.fleet.links[1].calls[0].is_alone
    for _ in range(4):
        assert (await core.ended(call_of(not_at=frozenset("AB")))).node == "C"
    nowhere = call_of(not_at=frozenset("ABC"))
    dear, elsewhere = call_of(job_of(max_price=1.0)), call_of(job_of(regions=("us",)))
    for call in (nowhere, dear, elsewhere):  # they are of the EU, and cost 1.5
        assert isinstance((await core.ended(call)).error, Unsatisfiable)


async def test_nodes_with_another_file_of_the_version_run_nothing() -> None:
    core = Core([echo], [echo])
    other = replace(OFFER, digest="sha256-chunks:" + "1" * 64)
    core.fleet.view.apply(
        [Changed(advert("B", "b:1", models=(other,), counter=2), advert("B", "B:1"))]
    )
    hosting = core.nodes.hosting(PINNED, "m")
    assert hosting is not None
    assert hosting.nodes == {"A"}
    for _ in range(4):
        assert (await core.ended(call_of())).node == "A"
    core.fleet.view.apply([Left(PeerId("A"), LeftReason.GOODBYE)])
    assert core.nodes.hosting(PINNED, "m") is None
    assert "another content" in core.nodes.absence(PINNED, "m")
    core.fleet.view.apply([Left(PeerId("B"), LeftReason.GOODBYE)])
    assert "'m'" in core.nodes.absence(PINNED, "m")


async def test_hosting_is_that_of_the_quickest_node_within_the_limits_of_all() -> None:
    core = Core([echo])
    slow = replace(OFFER, best_rows=2, row_us=900, max_rows=16)
    core.fleet.node("B", echo, models=(slow,))
    hosting = core.nodes.hosting(PINNED, "m")
    assert hosting is not None
    assert (hosting.best_rows, hosting.row_s, hosting.slow_row_s) == (8, 1e-4, 9e-4)
    assert (hosting.max_rows, hosting.refusal) == (16, "")
    sequential = Core([echo], models=(replace(OFFER, scheduling=Scheduling.SEQUENCE),))
    found = sequential.nodes.hosting(PINNED, "m")
    assert found is not None
    assert "keeps a state" in found.refusal


async def test_cancelled_call_is_withdrawn_and_not_told() -> None:
    core = Core([hang])
    told: list[Ended] = []
    started = core.nodes.start(call_of(), told.append)
    assert (started.node, started.place != "") == ("A", True)
    started.cancel()
    await asyncio.sleep(10.0)
    assert told == []
    assert core.fleet.links[0].asks[0].ended == "withdrawn"
    assert core.fleet.served().admission.bulk.rows == 0


async def test_month_that_is_used_up_is_told_once_no_key_has_any_left() -> None:
    core = Core([echo])
    jobs = (Verb.JOBS,)
    core.keys(Scope(verbs=jobs, rows_per_month=2), Scope(verbs=jobs, rows_per_month=2))
    ends = [await core.ended(call_of(job_of("t"))) for _ in range(3)]
    assert [each.is_over_quota for each in ends] == [False, False, True]
    assert isinstance(ends[2].error, TooManyRequests)
    assert ends[2].error.retry_after_s >= LONG_WAIT_S
    assert "rows" in ends[2].error.message


async def test_room_is_that_of_the_nodes_in_calls() -> None:
    core = Core([hang])
    replica = core.fleet.replicas[0]
    core.fleet.served().reported(replica, LoadReport(limit=400, limit_rows=400), core.fleet.clock())
    await asyncio.sleep(0.1)  # it is not read at each call
    assert core.nodes.room(PINNED, "m", 8) == 13  # 100 rows
    for _ in range(3):
        core.nodes.start(call_of(rows=8), lambda _: None)
    assert core.nodes.room(PINNED, "m", 8) == 10
    assert Core().nodes.room(PINNED, "m", 8) == 0


async def test_delay_and_idle_capacity_are_what_nodes_tell() -> None:
    core = Core([echo], [echo])
    assert core.nodes.crowds(PINNED, "m") == {}
    assert core.nodes.idle_rows_per_s("m", "") == 20_000.0
    served = core.fleet.served()
    load = LoadReport(online_queue_us=250_000, latency_us=300_000, bulk_in_flight=0)
    for replica in core.fleet.replicas:
        served.reported(replica, load, core.fleet.clock())
    calm = Crowd(0.25, is_calm=True)
    assert core.nodes.crowds(PINNED, "m") == {"A": calm, "B": calm}
    assert core.nodes.idle_rows_per_s("m", "1") == 15_000.0
    served.reported(core.fleet.replicas[0], load._replace(bulk_in_flight=8), core.fleet.clock())
    crowded = Crowd(0.25, is_calm=False)
    assert core.nodes.crowds(PINNED, "m") == {"A": crowded, "B": calm}
    assert core.nodes.idle_rows_per_s("none", "") is None
