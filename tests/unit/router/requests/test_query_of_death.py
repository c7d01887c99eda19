"""Requests of people and of jobs that end workers, in virtual time: the production routing, and nodes whose processes die of some inputs."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from fleet_fakes import (
    Ask,
    Fleet,
    Reply,
    advert,
    after,
    call,
    echo,
    failing,
    fp32,
    hang,
    offer,
    telling,
)

from capamesh.protocol.bulk_deaths import MOST
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    LinkLost,
    ModelUnavailable,
    Overloaded,
    RequestKills,
    RunFailed,
)
from capamesh.protocol.fleet import Joined
from capamesh.protocol.links.calls import InferCall, LoadReport
from capamesh.router.requests.call import NO_OPTIONS, Outcome, RoutingOptions
from capamesh.router.resilience.health import CircuitState

RUN_S = 0.01
DYING_S = 0.2
RESTART_S = 1.5
LOAD = LoadReport(0, 0, 200, 0, 10_000, 0, 10_000)


class Mortal:
    """Nodes whose worker ends `DYING_S` after it was asked a killer, and is back `RESTART_S` later as another process."""

    def __init__(self, count: int) -> None:
        self.fleet = Fleet()
        self.deaths: Counter[float] = Counter()
        self.lives = 0
        self.said: list[str] = []
        for at in range(count):
            peer = "ABCDEFGH"[at]
            self.fleet.hear(advert(peer, f"{peer.lower()}:1"))
            self.up(at)

    def up(self, at: int) -> None:
        self.lives += 1
        link = self.fleet.relink(at, self.reply)
        link.peer_process = b"%d" % self.lives
        link.load_reply = telling(LOAD)
        self.fleet.balancer.linked(self.fleet.endpoints[at], self.fleet.clock())

    def reply(self, ask: Ask) -> None:
        value = float(ask.call.inputs[0].to_numpy()[0, 0])
        loop = asyncio.get_running_loop()
        if value >= 1000:
            loop.call_later(DYING_S, self.die, ask, value)
        else:
            loop.call_later(RUN_S, ask.echo, LOAD)

    def die(self, ask: Ask, value: float) -> None:
        link = ask.link
        if link.is_usable:
            at = self.fleet.endpoints.index(link.endpoint)
            self.deaths[value] += 1
            link.end(is_sudden=True)
            self.fleet.balancer.unlinked(link.endpoint, self.fleet.clock())
            asyncio.get_running_loop().call_later(RESTART_S, self.up, at)

    async def infer(self, value: float) -> str:
        try:
            await self.fleet.infer(target(value), NO_OPTIONS, self.fleet.clock() + 30.0)
        except CapameshError as error:
            self.said.append(error.message)
            return error.code
        return "ok"


def target(value: float) -> InferCall:
    return call().replace(inputs=(fp32("x", [value, 0]),))


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_killer_ends_two_workers_is_reported_so_and_never_sent_again(count: int) -> None:
    mortal = Mortal(count)
    assert await mortal.infer(1.0) == "ok"
    assert await mortal.infer(1000.0) == "request_kills"
    assert mortal.deaths == {1000.0: 2}
    for _ in range(100):
        assert await mortal.infer(1000.0) == "request_kills"
    assert mortal.deaths == {1000.0: 2}
    assert await mortal.infer(1.0) == "ok"
    await asyncio.sleep(61.0)  # a verdict may have been wrong
    assert await mortal.infer(1000.0) == "request_kills"
    assert mortal.deaths == {1000.0: 4}
    await asyncio.sleep(400.0)
    assert await mortal.infer(1000.0) == "request_kills"
    assert mortal.deaths == {1000.0: 4}
    assert mortal.fleet.counts == {}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
async def test_bystanders_of_a_stream_of_killers_are_all_answered_and_none_is_remembered(
    count: int, seed: int
) -> None:
    mortal = Mortal(count)
    rng = random.Random(seed)
    ended: list[str] = []
    is_over = False

    async def bystand(value: float) -> None:
        while not is_over:
            ended.append(await mortal.infer(value))
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        for client in range(6):
            tasks.create_task(bystand(float(client)))
        await asyncio.sleep(1.0)
        attacks = []
        for number in range(12):
            attacks.append(tasks.create_task(mortal.infer(1000.0 + number)))
            await asyncio.sleep(rng.uniform(0.0, 1.0))
        await asyncio.wait(attacks)
        is_over = True
    assert Counter(ended).keys() == {"ok"}, Counter(mortal.said)
    assert all(attack.result() != "ok" for attack in attacks)
    killers, witnesses = mortal.fleet.dispatch.killers, mortal.fleet.served().witnesses
    for value in range(6):
        assert not killers.is_barred(target(float(value)), witnesses, mortal.fleet.clock())
    assert max(mortal.deaths.values()) <= 3
    assert mortal.deaths.total() <= 2 * 12 + 2, mortal.deaths
    await asyncio.sleep(5.0)
    assert mortal.fleet.counts == {}


@pytest.mark.parametrize("apart_s", [0.0, 0.002, 0.05, 0.6])
async def test_death_of_all_workers_at_once_is_blamed_on_no_request_and_all_are_answered(
    apart_s: float,
) -> None:
    mortal = Mortal(3)
    ended: list[str] = []

    async def ask(value: float) -> None:
        for _ in range(100):
            ended.append(await mortal.infer(value))
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as tasks:
        for client in range(8):
            tasks.create_task(ask(float(client // 4)))  # alike, as those of a health check are
        await asyncio.sleep(0.3)
        links = [endpoint.link for endpoint in mortal.fleet.endpoints]
        for link in links:
            link.load_reply, link._script = hang, [hang]  # killed, and its socket not closed yet
        for at, link in enumerate(links):
            link.end(is_sudden=True)
            mortal.fleet.balancer.unlinked(mortal.fleet.endpoints[at], mortal.fleet.clock())
            asyncio.get_running_loop().call_later(2.0 + at, mortal.up, at)
            await asyncio.sleep(apart_s)
    assert Counter(ended) == {"ok": 800}
    assert len(mortal.fleet.dispatch.killers) == 0
    assert mortal.fleet.counts == {}


class Liar:
    """Nodes that drop their link at each request and come back at once, as other processes; and honest ones."""

    def __init__(self, liars: dict[str, int], honest: str, invites: dict[str, str]) -> None:
        """`liars` have so many addresses each, and are asked before the honest."""
        self.fleet = Fleet(invites=invites)
        self.drops = 0
        for peer, count in liars.items():
            addresses = [f"{peer.lower()}:{at + 1}" for at in range(count)]
            self.fleet.view.apply([Joined(advert(peer, *addresses, models=(offer(),)))])
        self.honest_from = len(self.fleet.endpoints)
        for at in range(self.honest_from):
            self.up(at)
        for peer in honest:
            self.fleet.view.apply([Joined(advert(peer, f"{peer.lower()}:1", models=(offer(),)))])

    def up(self, at: int) -> None:
        self.drops += 1
        link = self.fleet.relink(at, self.drop)
        link.peer_process = b"%d" % self.drops
        link.load_reply = telling(LOAD)
        self.fleet.balancer.linked(self.fleet.endpoints[at], self.fleet.clock())

    def honest_up(self) -> None:
        for at in range(self.honest_from, len(self.fleet.endpoints)):
            self.fleet.relink(at).load_reply = telling(LOAD)

    def drop(self, ask: Ask) -> None:
        asyncio.get_running_loop().call_soon(self.end, ask)

    def end(self, ask: Ask) -> None:
        at = self.fleet.endpoints.index(ask.link.endpoint)
        ask.link.end(is_sudden=True)
        self.fleet.balancer.unlinked(ask.link.endpoint, self.fleet.clock())
        asyncio.get_running_loop().call_later(0.05, self.up, at)


@pytest.mark.parametrize(
    ("liars", "invites"),
    [
        ({"A": 1}, {}),
        ({"A": 3}, {}),
        ({"A": 2, "B": 2}, {"A": "lent", "B": "lent", "H": "own"}),
        ({"A": 1, "B": 1, "C": 1}, {"A": "lent", "B": "lent", "C": "lent", "H": "own"}),
    ],
)
@pytest.mark.parametrize("late_s", [0.0, 2.0])
async def test_one_member_s_word_fails_no_request_that_an_honest_node_answers(
    liars: dict[str, int], invites: dict[str, str], late_s: float
) -> None:
    liar = Liar(liars, "H", invites)
    if late_s:
        asyncio.get_running_loop().call_later(late_s, liar.honest_up)
    else:
        liar.honest_up()
    for _ in range(3):
        await liar.fleet.infer(target(1.0), NO_OPTIONS, liar.fleet.clock() + 30.0)
    assert len(liar.fleet.dispatch.killers) == 0
    await asyncio.sleep(1.0)  # for probes
    assert liar.fleet.counts == {}


async def test_word_of_one_node_bars_no_request_from_one_that_comes_later() -> None:
    liar = Liar({"A": 2}, "", {})
    for _ in range(2):
        with pytest.raises(RequestKills):
            await liar.fleet.infer(target(1.0), NO_OPTIONS, liar.fleet.clock() + 30.0)
    liar.fleet.node("H").load_reply = telling(LOAD)
    await liar.fleet.infer(target(1.0), NO_OPTIONS, liar.fleet.clock() + 30.0)
    assert len(liar.fleet.dispatch.killers) == 0  # it was answered


async def test_many_that_are_held_end_together_and_are_all_reported_so() -> None:
    fleet = Fleet([hang], [hang])
    for link in fleet.links:
        link.load_reply = telling(LOAD)
    reported: Counter[str] = Counter()

    async def ask(value: float) -> None:
        with pytest.raises(CapameshError) as caught:
            await fleet.infer(target(value), NO_OPTIONS, fleet.clock() + 60.0)
        reported[caught.value.code] += 1

    async with asyncio.TaskGroup() as tasks:
        for value in range(400):
            tasks.create_task(ask(float(value)))
        for endpoint in fleet.endpoints:
            await asyncio.sleep(0.5)
            fleet.links[fleet.endpoints.index(endpoint)].end(is_sudden=True)
            fleet.balancer.unlinked(endpoint, fleet.clock())
    assert reported == {"link_lost": 400}
    assert fleet.counts == {}


@pytest.mark.pure
async def test_request_that_kills_gives_its_permit_back_though_it_was_never_sent() -> None:
    fleet = Fleet([echo])
    fleet.dispatch.killers = SimpleNamespace(  # type: ignore[assignment]
        until_s=math.inf, is_barred=lambda *_: True
    )
    with pytest.raises(RequestKills):
        await fleet.infer(call(), NO_OPTIONS, 30.0)
    assert (fleet.asked, fleet.counts) == ([0], {})


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
    (replica,), (endpoint,) = fleet.replicas, fleet.endpoints
    bulk = fleet.served().admission.bulk

    def counted() -> list[int]:
        return [replica.bulk_rows, bulk.rows, endpoint.bulk_rif, replica.rif]

    first, second = (asyncio.create_task(sent(fleet, asked)) for asked in (job(), job([1.0, 2.0])))
    await asyncio.sleep(0)
    assert (counted(), fleet.links[0].calls[0].is_bulk) == ([9, 9, 2, 2], True)
    await second
    assert counted() == [8, 8, 1, 1]
    first.cancel()
    await asyncio.wait([first])
    assert (counted(), fleet.served().admission.under_way) == ([0] * 4, 0)


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
    memories = fleet.served().admission.saturation._memory.values()
    assert all(memory.full_until_s <= 0 for memory in memories)
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
