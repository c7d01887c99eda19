"""Calls with an idempotency key: run once however often they come, each tenant's keys its own, all within bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from awaited_calls import outcome_of
from fleet_fakes import Fleet, after, call, echo, failing, fp32, hang

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    KeyUsed,
    LinkLost,
    Overloaded,
    RunFailed,
    TooManyRequests,
)
from capamesh.protocol.links.calls import InferCall
from capamesh.router.requests.call import NO_OPTIONS, Call, Outcome, RoutingOptions
from capamesh.router.requests.keyed_run import KEY_BYTES
from capamesh.router.requests.repeated_calls import KEPT_S, RepeatedCalls
from capamesh.router.rules.model_rules import ModelRules, RoutingRules

ONCE = RoutingRules(ModelRules(is_retried=False, is_hedged=False))
LAB = RoutingOptions(tenant="lab")
SHOP = RoutingOptions(tenant="shop")


class Keyed:
    """A fleet, and the layer of idempotency keys above its pipeline."""

    def __init__(self, *script: Any, rules: RoutingRules = ONCE, **options: Any) -> None:
        self.fleet = Fleet(script or [echo], rules=rules)
        loop = asyncio.get_running_loop()
        self.calls = RepeatedCalls(clock=self.fleet.clock, timers=loop, **options)

    async def ask(
        self,
        key: str = "k",
        asked: InferCall | None = None,
        options: RoutingOptions = NO_OPTIONS,
        allowed_s: float = 30.0,
    ) -> Outcome:
        call_ = Call(asked or call(), options, self.fleet.clock() + allowed_s)
        pipeline = self.fleet.routing.pipeline
        return await outcome_of(
            lambda responder: self.calls.start(key, call_, responder, pipeline.start)
        )

    @property
    def asked(self) -> list[int]:
        return self.fleet.asked

    @property
    def counts(self) -> dict[str, int]:
        return {result: count for (result,), count in self.calls.counts()}


def told(found: list[Any]) -> list[str]:
    return [each.code if isinstance(each, CapameshError) else "ok" for each in found]


async def test_repeated_call_gets_the_first_one_s_answer_and_is_not_run() -> None:
    keyed = Keyed()
    first = await keyed.ask()
    await asyncio.sleep(KEPT_S - 1)
    second = await keyed.ask()
    assert keyed.asked == [1]
    assert second.entry is not None
    assert (second.entry.word, second.peer) == ("repeated", "A")
    assert bytes(second.answer.outputs[0].data) == bytes(first.answer.outputs[0].data)
    assert second.picker.explain(0.0).chosen == ()
    await asyncio.sleep(2)
    assert (await keyed.ask()).entry is None
    assert (keyed.asked, keyed.counts) == ([2], {"first": 2, "repeated": 1})


@pytest.mark.parametrize("error", [RunFailed("bad"), LinkLost("gone")])
async def test_error_of_a_call_that_may_have_run_is_what_each_repeated_one_gets(
    error: CapameshError,
) -> None:
    keyed = Keyed(after(1, failing(error)), echo)
    found = await asyncio.gather(*(keyed.ask() for _ in range(3)), return_exceptions=True)
    found += await asyncio.gather(keyed.ask(), return_exceptions=True)
    assert (told(found), keyed.asked) == ([error.code] * 4, [1])
    assert keyed.calls._known["", "k"].error is not None
    await asyncio.sleep(KEPT_S)
    assert (await keyed.ask()).entry is None


@pytest.mark.parametrize("error", [Overloaded("full", 1.0), InvalidRequest("bad")])
async def test_call_that_no_node_has_run_is_tried_again(error: CapameshError) -> None:
    keyed = Keyed(failing(error), echo)
    with pytest.raises(type(error)):
        await keyed.ask()
    assert (len(keyed.calls), keyed.calls.used_bytes) == (0, 0)
    assert (await keyed.ask()).entry is None
    assert keyed.asked == [2]


async def test_each_client_has_its_own_deadline_and_the_call_goes_on() -> None:
    keyed = Keyed(after(10, echo))
    first = asyncio.create_task(keyed.ask())
    await asyncio.sleep(1)
    with pytest.raises(DeadlineExceeded):
        await keyed.ask(allowed_s=2.0)
    assert (await first).entry is None
    assert keyed.asked == [1]


async def test_tenant_leaves_as_much_to_others_as_it_has() -> None:
    many = [f"k{at:02}" for at in range(40)]
    keyed = Keyed(hang, most_bytes=30 * (KEY_BYTES + 6))
    tasks = [asyncio.create_task(keyed.ask(each, options=LAB)) for each in many]
    await asyncio.sleep(0)
    refused = [task for task in tasks if task.done()]
    assert len(refused) == 25  # 15 are as much as is left
    assert isinstance(refused[0].exception(), TooManyRequests)
    more = [asyncio.create_task(keyed.ask(each, options=SHOP)) for each in many]
    await asyncio.sleep(0)
    assert sum(not task.done() for task in more) == 7
    for task in (*tasks, *more):
        task.cancel()
    await asyncio.gather(*tasks, *more, return_exceptions=True)
    assert keyed.calls.used_bytes <= keyed.calls.most_bytes


async def test_many_tenants_stay_within_the_bound() -> None:
    keyed = Keyed(most_bytes=20 * KEY_BYTES)
    found = [
        await asyncio.gather(
            keyed.ask(options=RoutingOptions(tenant=str(at))), return_exceptions=True
        )
        for at in range(60)
    ]
    codes = [told(each)[0] for each in found]
    assert "overloaded" in codes
    assert keyed.calls.used_bytes <= 20 * KEY_BYTES
    await asyncio.sleep(KEPT_S)
    await keyed.ask(options=LAB)
    assert list(keyed.calls._by_tenant) == ["lab"]
    assert keyed.calls.used_bytes == sum(keyed.calls._by_tenant.values())


async def test_answer_that_is_too_large_is_not_run_again_all_the_same() -> None:
    keyed = Keyed(most_bytes=100 * KEY_BYTES)
    rows = call().replace(inputs=(fp32("x", *[[1.0, 2.0]] * 1000),))
    await keyed.ask(asked=rows)
    with pytest.raises(KeyUsed, match="too large"):
        await keyed.ask(asked=rows)
    assert keyed.asked == [1]
