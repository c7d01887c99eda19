"""Calls of batch jobs on their way through the router: each is run once, and none of them costs anybody else anything."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from fleet_fakes import Fleet, Reply, after, call, echo, failing, fp32, hang
from mortal_nodes import Mortal, target

from capamesh.protocol.bulk_deaths import MOST
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    LinkLost,
    ModelUnavailable,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.links.calls import InferCall, LoadReport
from capamesh.router.requests.call import NO_OPTIONS, Outcome, RoutingOptions
from capamesh.router.resilience.health import CircuitState

ROWS = [[float(at), 0.0] for at in range(8)]
TOLD = LoadReport(1, 0, 100, 9, 10, 0, 10, 1, 8, 0, 400)


def job(*rows: list[float], is_alone: bool = False) -> InferCall:
    inputs = (fp32("x", *(rows or ROWS)),)
    return call("m", "1").replace(inputs=inputs, is_bulk=True, is_alone=is_alone)


def world(*scripts: Sequence[Reply]) -> Fleet:
    """Return nodes that follow these scripts, and have told of room for a hundred rows of jobs each."""
    fleet = Fleet(*scripts)
    for replica in fleet.replicas:
        replica.reported(TOLD._replace(in_flight=0, bulk_in_flight=0), fleet.clock())
    return fleet


async def sent(
    fleet: Fleet, asked: InferCall, options: RoutingOptions = NO_OPTIONS, allowed_s: float = 30.0
) -> Outcome:
    return await fleet.infer(asked, options, fleet.clock() + allowed_s)


def traces(fleet: Fleet) -> list[object]:
    """Return all that an outcome may leave behind which others would be judged by."""
    served = fleet.served()
    return [
        served.window.count,
        served.hedging.spent,
        served.budget.spent,
        [replica.missed for replica in fleet.replicas],
        [(replica.peak_cost_s, replica.failed_s) for replica in fleet.replicas],
        [replica.health.is_full and not replica.health.consecutive for replica in fleet.replicas],
        [each.health.is_full and not each.health.consecutive for each in fleet.endpoints],
        len(served._outliers._tallies),
        served.admission.fair.is_wanted,
        len(fleet.dispatch.killers),
    ]


async def test_rows_of_a_call_are_counted_at_its_replica_until_it_ends() -> None:
    fleet = world([hang, after(1.0, echo)])
    (replica,) = fleet.replicas
    (endpoint,) = fleet.endpoints
    first = asyncio.create_task(sent(fleet, job()))
    await asyncio.sleep(0)
    second = asyncio.create_task(sent(fleet, job([1.0, 2.0])))
    await asyncio.sleep(0)
    bulk = fleet.served().admission.bulk
    assert (replica.bulk_rows, endpoint.bulk_rif, replica.rif, bulk.rows) == (9, 2, 2, 9)
    assert fleet.links[0].calls[0].is_bulk
    await second
    assert (replica.bulk_rows, endpoint.bulk_rif, replica.rif, bulk.rows) == (8, 1, 1, 8)
    first.cancel()
    await asyncio.wait([first])
    assert (replica.bulk_rows, endpoint.bulk_rif, replica.rif, bulk.rows) == (0, 0, 0, 0)
    assert fleet.served().admission.under_way == 0


@pytest.mark.parametrize(
    "error",
    [Overloaded("bulk requests fill half", 2.0), RunFailed("a bad row"), InvalidRequest("bad")],
)
async def test_refusal_or_failure_of_a_job_s_call_is_no_fault_of_the_node(
    error: CapameshError,
) -> None:
    fleet = world([failing(error)], [failing(error)])
    before = traces(fleet)
    for _ in range(20):
        with pytest.raises(type(error)):
            await sent(fleet, job())
    assert traces(fleet) == before
    assert fleet.served().admission.saturation._memory == {} or all(
        memory.full_until_s <= 0 for memory in fleet.served().admission.saturation._memory.values()
    )
    assert {state.health.state(fleet.clock()) for state in fleet.replicas} == {CircuitState.CLOSED}


@pytest.mark.parametrize("error", [Overloaded("full"), ModelUnavailable("loading")])
async def test_call_of_a_job_that_certainly_was_not_run_is_asked_elsewhere(
    error: CapameshError,
) -> None:
    fleet = world([failing(error)], [echo])
    assert (await sent(fleet, job(is_alone=True))).peer == "B"
    assert [link.calls[0].is_alone for link in fleet.links] == [True, True]


# workers that end


async def test_end_of_a_worker_with_a_job_s_call_is_no_fault_of_the_node_so_many_times() -> None:
    fleet = world([hang])
    (replica,) = fleet.replicas
    (endpoint,) = fleet.endpoints
    for number in range(MOST + 1):
        online = asyncio.create_task(sent(fleet, call()))
        await asyncio.sleep(0)
        bulk = asyncio.create_task(sent(fleet, job()))
        await asyncio.sleep(0)
        fleet.links[-1].end(is_sudden=True)
        await asyncio.sleep(1.0)
        assert endpoint.health.consecutive == (1 if number == MOST else 0)
        assert replica.missed == (0 if number < MOST else 6)
        fleet.relink(0, hang)
        for task in (online, bulk):
            task.cancel()
        await asyncio.wait([online, bulk])
    assert endpoint.errors["link_lost"] > MOST


async def test_end_of_a_worker_without_a_job_s_call_is_the_node_s_as_ever() -> None:
    fleet = world([hang], [echo])
    online = asyncio.create_task(sent(fleet, call()))
    await asyncio.sleep(0)
    fleet.links[0].end(is_sudden=True)
    await online
    assert fleet.endpoints[0].health.state(fleet.clock()) is CircuitState.INHIBITED


@pytest.mark.seeds
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("seed", range(4))
async def test_rows_that_end_workers_cost_no_bystander_and_no_node_its_place(
    count: int, seed: int
) -> None:
    """Six rows of a job end six workers, one after the other, while people ask for the model."""
    mortal = Mortal(count)
    fleet, rng = mortal.fleet, random.Random(seed)
    ended: Counter[str] = Counter()
    died: list[tuple[str, float]] = []
    is_over = False

    async def bystand(value: float) -> None:
        while not is_over:
            ended[await mortal.infer(value)] += 1
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        for client in range(6):
            tasks.create_task(bystand(float(client)))
        await asyncio.sleep(1.0)
        for number in range(6):
            row = target(1000.0 + number).replace(is_bulk=True, is_alone=True)
            with pytest.raises(LinkLost) as caught:
                await fleet.infer(row, NO_OPTIONS, fleet.clock() + 5.0)
            died.append((str(caught.value.peer), fleet.clock()))
            await asyncio.sleep(rng.uniform(1.6, 3.0))
            states = {each.health.state(fleet.clock()) for each in fleet.endpoints}
            assert CircuitState.EJECTED not in states
        is_over = True
    assert set(ended) == {"ok"}, Counter(mortal.said)
    assert len(died) == sum(mortal.deaths.values()) == 6
    assert len(fleet.dispatch.killers) == 0
    assert all(replica.missed == 0 for replica in fleet.replicas)
    assert fleet.counts == {}
