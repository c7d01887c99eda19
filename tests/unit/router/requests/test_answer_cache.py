"""Answers that are kept, here or by other routers: whom they are given to, what is never kept, and runs that equal calls share."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fleet_fakes import Ask, Fleet, after, call, echo, failing, fp32, hang, offer

from capamesh.protocol.adverts import ModelOffer
from capamesh.protocol.errors import CapameshError, InvalidRequest, RunFailed
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import InferAnswer, InferCall, LoadReport
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tensors import DEFAULT_LIMITS
from capamesh.router.cache.key import MOST_INPUT_BYTES
from capamesh.router.cache.shared import Seal, SharedAnswers, SharedStore, Then
from capamesh.router.cache.store import WARY_AFTER, WARY_LOOKS
from capamesh.router.requests.call import NO_OPTIONS, Outcome, RoutingOptions
from capamesh.router.requests.known_versions import NEWCOMER_S, TOGETHER_S
from capamesh.router.rules.model_rules import CacheRule, ModelRules, RoutingRules

RULES = RoutingRules(ModelRules(cache=CacheRule(60.0)))
SHARED = RoutingRules(ModelRules(cache=CacheRule(60.0, is_shared=True)))
LAB = RoutingOptions(tenant="lab")
SHOP = RoutingOptions(tenant="shop")


def other_row() -> InferCall:
    return call().replace(inputs=(fp32("x", [3, 4]),))


async def ask(
    fleet: Fleet, asked: InferCall | None = None, options: RoutingOptions = NO_OPTIONS
) -> Outcome:
    return await fleet.infer(asked or call(), options, fleet.clock() + 30.0)


def counts(fleet: Fleet) -> dict[str, int]:
    return {result: count for (_, result), count in fleet.routing.pipeline.cache.counts()}


async def test_equal_request_gets_the_kept_answer_in_its_time_and_no_node_is_asked() -> None:
    fleet = Fleet([echo], rules=RULES)
    first = await ask(fleet)
    await asyncio.sleep(59.9)
    second = await ask(fleet)
    assert (first.entry, fleet.asked) == (None, [1])
    assert second.entry is not None
    assert fleet.clock() - second.entry.stored_s == pytest.approx(59.9)
    assert bytes(second.answer.outputs[0].data) == bytes(first.answer.outputs[0].data)
    assert (second.peer, second.attempts, second.answer.run_us) == ("A", 0, 0)
    await ask(fleet, other_row())
    await asyncio.sleep(0.2)
    assert (await ask(fleet)).entry is None
    assert (await ask(fleet)).entry is not None
    assert (fleet.asked, fleet.counts) == ([3], {})
    assert counts(fleet) == {"miss": 3, "hit": 2}


async def test_tenant_gets_no_other_s_answer_unless_the_rules_share_them() -> None:
    fleet = Fleet([echo], rules=RULES)
    for options in (LAB, SHOP, NO_OPTIONS, RoutingOptions(tenant="")):
        await ask(fleet, options=options)
    assert fleet.asked == [3]
    for options in (LAB, SHOP):
        assert (await ask(fleet, options=options)).entry is not None
    shared = Fleet([echo], rules=SHARED)
    await ask(shared, options=LAB)
    assert (await ask(shared, options=SHOP)).entry is not None


async def test_client_says_how_old_an_answer_may_be_and_whether_it_is_kept() -> None:
    fleet = Fleet([echo], rules=RULES)
    unkept = RoutingOptions(may_be_kept=False)
    await ask(fleet, options=unkept)
    assert (await ask(fleet)).entry is None
    assert (await ask(fleet, options=unkept)).entry is None
    await asyncio.sleep(5)
    assert (await ask(fleet, options=RoutingOptions(max_age_s=6))).entry is not None
    assert (await ask(fleet, options=RoutingOptions(max_age_s=4))).entry is None
    await asyncio.sleep(2)
    assert (await ask(fleet, options=RoutingOptions(max_age_s=4))).entry is not None
    renewed = await ask(fleet, options=RoutingOptions(max_age_s=0))
    assert renewed.entry is None
    hit = await ask(fleet)
    assert hit.entry is not None
    assert hit.entry.stored_s == fleet.clock()
    assert counts(fleet) == {"passed_by": 2, "miss": 3, "hit": 3}


async def test_sequence_is_passed_by_and_so_are_large_inputs() -> None:
    fleet = Fleet([echo], rules=RULES)
    sequence = call().replace(sequence=SequenceMark(1, is_start=True, is_end=True))
    rows = fp32("x", *[[0.0, 0.0]] * (MOST_INPUT_BYTES // 8))
    larger = fp32("x", *[[0.0, 0.0]] * (MOST_INPUT_BYTES // 8 + 1))
    for asked in (sequence, call().replace(inputs=(larger,))):
        for _ in range(2):
            assert (await ask(fleet, asked)).entry is None
    assert counts(fleet) == {"passed_by": 4}
    for _ in range(2):
        await ask(fleet, call().replace(inputs=(rows,)))
    assert counts(fleet) == {"passed_by": 4, "miss": 1, "hit": 1}


async def test_answer_of_another_version_or_file_is_not_kept() -> None:
    fleet = Fleet(rules=RULES)
    fleet.node("A", failing(RunFailed("bad")), models=(offer(version="2"),))
    fleet.node("B", echo, models=(offer(version="1"),))
    found = [await ask(fleet) for _ in range(2)]
    assert [(each.answer.version, each.entry) for each in found] == [("1", None)] * 2

    def replaced(ask: Ask) -> None:
        for replica in fleet.replicas:
            replica.advertised(_other_file(replica.offer), replica.advert)
        echo(ask)

    fleet = Fleet([replaced], rules=RULES)
    for _ in range(2):
        assert (await ask(fleet)).entry is None
    assert list(fleet.routing.pipeline.cache.not_kept()) == [(("m",), 2)]


def _other_file(given: ModelOffer) -> ModelOffer:
    return replace(given, digest="sha256-chunks:" + "1" * 64)


async def test_entry_is_dropped_when_its_node_has_another_file_or_loads_the_model_anew() -> None:
    fleet = Fleet([echo], rules=RULES)
    (replica,) = fleet.replicas
    await ask(fleet)
    replica.set_away(True)
    replica.set_away(False)
    assert (await ask(fleet)).entry is None
    assert (await ask(fleet)).entry is not None
    replica.offer = _other_file(replica.offer)
    fleet.view.hosted(ModelName("m"), offer().version).members_changed()
    assert (await ask(fleet)).entry is None


async def test_newcomer_s_answer_is_not_kept_until_it_was_there_for_some_time() -> None:
    fleet = Fleet(rules=RULES)
    for peer, linked_s in (("A", TOGETHER_S + 1), ("B", 0.0)):
        fleet.node(peer, echo)
        fleet.endpoints[-1].linked_s = linked_s
    await asyncio.sleep(TOGETHER_S + 1)
    for _ in range(2):
        found = await ask(fleet)
        assert (found.peer, found.entry) == ("A", None)
    await asyncio.sleep(NEWCOMER_S)
    await ask(fleet)
    assert (await ask(fleet)).entry is not None


async def test_other_rules_drop_all_and_what_is_under_way_is_not_kept() -> None:
    fleet = Fleet([echo, after(5, echo), echo], rules=RULES)
    await ask(fleet)
    under_way = asyncio.create_task(ask(fleet, other_row()))
    await asyncio.sleep(1)
    fleet.take_rules(RULES)
    await under_way
    for asked in (call(), other_row()):
        assert (await ask(fleet, asked)).entry is None


async def test_client_that_leaves_fails_none_of_those_who_joined_its_run() -> None:
    fleet = Fleet([after(3, echo)], rules=RULES)
    first = asyncio.create_task(ask(fleet))
    await asyncio.sleep(1)
    others = [asyncio.create_task(ask(fleet)) for _ in range(3)]
    await asyncio.sleep(1)
    first.cancel()
    others[0].cancel()
    found = await asyncio.gather(*others[1:])
    assert [each.entry for each in found] == [None, None]
    assert (fleet.asked, fleet.links[0].withdrawn) == ([1], [])
    assert (await ask(fleet)).entry is not None


async def test_run_is_withdrawn_when_the_last_client_leaves() -> None:
    fleet = Fleet([hang], rules=RULES)
    tasks = [asyncio.create_task(ask(fleet)) for _ in range(3)]
    await asyncio.sleep(1)
    for task in tasks:
        assert fleet.links[0].withdrawn == []
        task.cancel()
        await asyncio.sleep(0.1)
    assert fleet.links[0].withdrawn == [2]
    assert (fleet.counts, len(fleet.routing.pipeline.cache.alarms)) == ({}, 0)
    assert not fleet.routing.pipeline.cache._runs


async def test_each_client_has_its_own_deadline() -> None:
    fleet = Fleet([after(10, echo), after(10, echo)], rules=RULES)
    began_s = fleet.clock()

    async def ended_s(allowed_s: float) -> tuple[str, float]:
        try:
            await fleet.infer(call(), NO_OPTIONS, fleet.clock() + allowed_s)
        except CapameshError as error:
            return error.code, fleet.clock() - began_s
        return "ok", fleet.clock() - began_s

    # the run has the first one's time: when that is over, those who have more set off together
    found = await asyncio.gather(*map(ended_s, (4.0, 2.0, 30.0, 30.0)))
    late = [("deadline_exceeded", seconds) for seconds in (4.0, 2.0)]
    assert found == [*late, ("ok", 14.0), ("ok", 14.0)]
    assert (fleet.asked, len(fleet.routing.pipeline.cache.alarms)) == ([2], 0)


async def test_request_that_is_wrong_is_wrong_for_all_and_runs_once() -> None:
    fleet = Fleet([after(1, failing(InvalidRequest("bad")))], rules=RULES)
    found = await asyncio.gather(*(ask(fleet) for _ in range(10)), return_exceptions=True)
    assert all(isinstance(each, InvalidRequest) for each in found)
    assert fleet.asked == [1]


def long_row(at: int, value: int) -> InferCall:
    """Return a call of 400 bytes with one value at a place, of which a mark does not see each."""
    values = [0.0] * 100
    values[at] = float(value)
    rows = [values[place : place + 2] for place in range(0, 100, 2)]
    return call().replace(inputs=(fp32("x", *rows),))


UNSEEN = 20
"""A place that a mark does not look at."""


async def test_requests_of_one_mark_get_each_its_own_answer() -> None:
    fleet = Fleet([after(1, echo)], rules=RULES)
    cache = fleet.routing.pipeline.cache
    rows = [long_row(UNSEEN, value % 5) for value in range(20)]
    found = await asyncio.gather(*(ask(fleet, row) for row in rows))
    for row, one in zip(rows, found, strict=True):
        assert bytes(one.answer.outputs[0].data) == bytes(row.inputs[0].data)
    assert (fleet.asked, cache._runs, cache._others) == ([5], {}, {})
    for row in rows:
        one = await ask(fleet, row)
        assert one.entry is not None
        assert bytes(one.answer.outputs[0].data) == bytes(row.inputs[0].data)
    assert (fleet.asked, len(cache.store)) == ([5], 5)


SEAL = Seal(b"s" * 32, "net")
LOOK_S = 0.003


class Store(SharedStore):
    """A store that takes its time, which is virtual."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.looks = 0
        self.is_away = False
        self.value: bytes | None = None
        """What each look-up finds, if the test says so."""

    def get(self, name: bytes, then: Then) -> bool:
        if self.is_away:
            return False
        self.looks += 1
        found = self.values.get(name) if self.value is None else self.value
        asyncio.get_running_loop().call_later(LOOK_S, then, found)
        return True

    def put(self, name: bytes, value: bytes, ttl_s: float) -> None:
        assert ttl_s == 60.0
        self.values[name] = value


def sharing(store: Store) -> Fleet:
    """Return one router's core with its node and its end of the store."""
    fleet = Fleet([echo], rules=RULES)
    fleet.routing.pipeline.cache.shared = SharedAnswers(
        store, SEAL, limits=DEFAULT_LIMITS, wall_clock=fleet.clock
    )
    return fleet


async def test_answer_of_another_router_is_given_with_its_age_and_kept() -> None:
    store = Store()
    one, other = sharing(store), sharing(store)
    await ask(one)
    await asyncio.sleep(9)
    found = await ask(other)
    assert found.entry is not None
    assert (found.entry.word, found.peer, found.replica) == ("hit", "A", None)
    assert other.clock() - found.entry.stored_s == pytest.approx(9, abs=0.1)
    assert (await ask(other)).entry is found.entry
    assert (other.asked, store.looks) == ([0], 2)
    assert counts(other) == {"miss": 1, "shared": 1, "hit": 1}
    await asyncio.sleep(60)
    assert (await ask(other)).entry is None  # the age counts from when it was run
    assert (other.counts, other.routing.pipeline.cache._runs) == ({}, {})


@pytest.mark.parametrize(("version", "names"), [("2", "y"), ("1", "z"), ("1", "")])
async def test_answer_that_does_not_fit_the_model_is_not_given(version: str, names: str) -> None:
    outputs = tuple(fp32(name, [1, 2]) for name in names)
    answer = InferAnswer(ModelVersion(version), outputs, 0, 0, LoadReport())
    store = Store()
    router, other = sharing(store), sharing(store)
    await ask(other)
    (key,) = other.routing.pipeline.cache.store._entries
    value = SEAL.written(key, answer, PeerId("A"), 0.0)
    assert value is not None
    store.value = value
    assert (await ask(router)).entry is None
    assert router.asked == [1]


async def test_client_that_leaves_while_the_store_is_asked_has_no_run() -> None:
    store = Store()
    router = sharing(store)
    task = asyncio.create_task(ask(router))
    await asyncio.sleep(LOOK_S / 2)
    task.cancel()
    await asyncio.sleep(1)
    assert (router.asked, router.routing.pipeline.cache._runs, router.counts) == ([0], {}, {})


async def test_flood_of_requests_that_nobody_repeats_asks_the_store_rarely() -> None:
    store = Store()
    router = sharing(store)
    router.routing.pipeline.cache.store._missed = WARY_AFTER
    for at in range(2 * WARY_LOOKS):
        await ask(router, call().replace(inputs=(fp32("x", [at, 0]),)))
    assert (store.looks, len(store.values)) == (2, 0)
