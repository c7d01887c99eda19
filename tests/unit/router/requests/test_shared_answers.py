"""Answers that other routers have kept: when they are looked for, given and told of, and that nothing waits for ever."""

from __future__ import annotations

import asyncio

import pytest
from awaited_calls import outcome_of
from fleet_fakes import Fleet, call, echo, fp32

from capamesh.protocol.ids import ModelVersion, PeerId
from capamesh.protocol.links.calls import InferAnswer, InferCall, LoadReport
from capamesh.protocol.tensors import DEFAULT_LIMITS
from capamesh.router.cache.shared import Seal, SharedAnswers, SharedStore, Then
from capamesh.router.cache.store import WARY_AFTER, WARY_LOOKS
from capamesh.router.requests.call import NO_OPTIONS, Call, Outcome, RoutingOptions
from capamesh.router.rules.model_rules import CacheRule, ModelRules, RoutingRules

RULES = RoutingRules(ModelRules(cache=CacheRule(60.0)))
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


class Router:
    """One router's core, its node, and its end of the store."""

    def __init__(self, store: Store, *script: object) -> None:
        self.fleet = fleet = Fleet(list(script) or [echo], rules=RULES)  # type: ignore[arg-type]
        self.cache = fleet.routing.pipeline.cache
        self.cache.shared = SharedAnswers(
            store, SEAL, limits=DEFAULT_LIMITS, wall_clock=fleet.clock
        )

    async def ask(
        self,
        asked: InferCall | None = None,
        options: RoutingOptions = NO_OPTIONS,
        allowed_s: float = 30.0,
    ) -> Outcome:
        call_ = Call(asked or call(), options, self.fleet.clock() + allowed_s)
        return await outcome_of(
            lambda responder: self.fleet.routing.pipeline.start(call_, responder)
        )

    @property
    def asked(self) -> list[int]:
        return self.fleet.asked

    @property
    def counts(self) -> dict[str, int]:
        return {result: count for (_, result), count in self.cache.counts()}


async def test_answer_of_another_router_is_given_with_its_age_and_kept() -> None:
    store = Store()
    one, other = Router(store), Router(store)
    await one.ask()
    await asyncio.sleep(9)
    found = await other.ask()
    assert found.entry is not None
    assert (found.entry.word, found.peer, found.replica) == ("hit", "A", None)
    assert other.fleet.clock() - found.entry.stored_s == pytest.approx(9, abs=0.1)
    assert (await other.ask()).entry is found.entry
    assert (other.asked, store.looks) == ([0], 2)
    assert other.counts == {"miss": 1, "shared": 1, "hit": 1}
    await asyncio.sleep(60)
    assert (await other.ask()).entry is None  # the age counts from when it was run
    assert (other.fleet.counts, other.cache._runs) == ({}, {})


async def test_request_goes_to_a_node_where_nothing_is_found_or_the_store_is_away() -> None:
    store = Store()
    router = Router(store)
    assert (await router.ask()).entry is None
    store.is_away = True
    assert (await router.ask(options=RoutingOptions(tenant="lab"))).entry is None
    assert (router.asked, store.looks, len(store.values)) == ([2], 1, 2)


@pytest.mark.parametrize(
    "answer",
    [
        InferAnswer(ModelVersion("2"), (fp32("y", [1, 2]),), 0, 0, LoadReport()),
        InferAnswer(ModelVersion("1"), (fp32("z", [1, 2]),), 0, 0, LoadReport()),
        InferAnswer(ModelVersion("1"), (), 0, 0, LoadReport()),
    ],
    ids=["version", "name", "none"],
)
async def test_answer_that_does_not_fit_the_model_is_not_given(answer: InferAnswer) -> None:
    store = Store()
    router, other = Router(store), Router(store)
    await other.ask()
    (key,) = other.cache.store._entries
    value = SEAL.written(key, answer, PeerId("A"), 0.0)
    assert value is not None
    store.value = value
    assert (await router.ask()).entry is None
    assert router.asked == [1]


async def test_client_that_leaves_while_the_store_is_asked_has_no_run() -> None:
    store = Store()
    router = Router(store)
    task = asyncio.create_task(router.ask())
    await asyncio.sleep(LOOK_S / 2)
    task.cancel()
    await asyncio.sleep(1)
    assert (router.asked, router.cache._runs, router.fleet.counts) == ([0], {}, {})


async def test_rules_that_are_read_anew_drop_what_is_shared_too() -> None:
    store = Store()
    one, other = Router(store), Router(store)
    await one.ask()
    await asyncio.sleep(1)
    other.fleet.take_rules(RULES)
    assert (await other.ask()).entry is None
    assert other.asked == [1]


async def test_flood_of_requests_that_nobody_repeats_asks_the_store_rarely() -> None:
    store = Store()
    router = Router(store)
    router.cache.store._missed = WARY_AFTER
    for at in range(2 * WARY_LOOKS):
        await router.ask(call().replace(inputs=(fp32("x", [at, 0]),)))
    assert (store.looks, len(store.values)) == (2, 0)
