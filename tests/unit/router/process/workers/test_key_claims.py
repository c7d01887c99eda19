"""Idempotency keys among the workers of a router: a call is run once, whichever workers its client comes to."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from awaited_calls import outcome_of
from fleet_fakes import Fleet, after, call, echo, failing, fp32

from capamesh.protocol.channel.framing import Decoder, encode
from capamesh.protocol.errors import DeadlineExceeded, KeyUsed, Overloaded, RunFailed
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tensors import DEFAULT_LIMITS
from capamesh.router.process.workers import verdicts
from capamesh.router.process.workers.key_claims import WorkerClaims
from capamesh.router.process.workers.key_ledger import KeyLedger
from capamesh.router.process.workers.messages import (
    Claim,
    Claimed,
    Recall,
    Recalled,
    ToMain,
    ToWorker,
    Unclaim,
    from_wire,
    to_wire,
)
from capamesh.router.requests.call import Call, Outcome, RoutingOptions
from capamesh.router.requests.repeated_calls import KEPT_S
from capamesh.router.rules.model_rules import ModelRules, RoutingRules

ONCE = RoutingRules(ModelRules(is_retried=False, is_hedged=False))
HOP_S = 0.001
"""The time of a message on the way."""


def travelled(message: ToMain | ToWorker) -> Any:
    (raw,) = Decoder().feed(encode(to_wire(message)))
    return from_wire(raw)


class Worker:
    """A worker: a router's core, its keys, and a channel to the main process that may be cut or full."""

    def __init__(self, ledger: KeyLedger, *script: Any) -> None:
        self.ledger = ledger
        self.fleet = Fleet(list(script) or [echo], rules=ONCE)
        self.calls = self.fleet.core.repeated
        self.is_alive = True
        self.reads = True
        self.is_heard = True
        self.seen: Any = SimpleNamespace(ask=self._is_told)  # as the main process sees it
        self.claims = WorkerClaims(
            self._send,
            self.calls,
            self.fleet.balancer,
            DEFAULT_LIMITS,
            clock=self.fleet.clock,
        )
        self.calls.claims = self.claims

    async def ask(
        self,
        key: str = "k",
        asked: InferCall | None = None,
        tenant: str = "",
        allowed_s: float = 30.0,
        whole: str = "",
    ) -> Outcome:
        options = RoutingOptions(tenant=tenant)
        call_ = Call(asked or call(), options, self.fleet.clock() + allowed_s)
        start = self.fleet.routing.pipeline.start
        return await outcome_of(
            lambda responder: self.calls.start(key, call_, responder, start, whole)
        )

    def _is_told(self, message: ToWorker) -> bool:
        if self.reads:
            asyncio.get_running_loop().call_later(HOP_S, self.receives, travelled(message))
        return self.reads

    def _send(self, message: ToMain) -> bool:
        if self.is_heard:
            asyncio.get_running_loop().call_later(HOP_S, self._arrives, travelled(message))
        return self.is_heard

    def _arrives(self, message: Claim | Unclaim | Recalled) -> None:
        if self.is_alive:
            self.ledger.received(self.seen, message)

    def receives(self, message: ToWorker) -> None:
        if not self.is_alive:
            return
        if isinstance(message, Claimed):
            self.claims.claimed(message)
        else:
            assert isinstance(message, Recall)
            self.claims.recalled(message)

    def dies(self) -> None:
        self.is_alive = False
        self.ledger.lost(self.seen)

    @property
    def asked(self) -> int:
        return self.fleet.asked[0]


def router(*scripts: Any, most_keys: int = 1000) -> tuple[KeyLedger, list[Worker]]:
    """Return the ledger and two workers, of which each has a node of its own."""
    ledger = KeyLedger(asyncio.get_running_loop().time, most_keys=most_keys)
    workers = [Worker(ledger, *script) for script in scripts or ([], [])]
    return ledger, workers


async def test_keys_of_tenants_and_other_requests_are_told_apart_by_all_workers() -> None:
    _, (one, two) = router()
    await one.ask(tenant="lab")
    assert (await two.ask(tenant="shop")).entry is None
    for other in ({"asked": call().replace(inputs=(fp32("x", [3, 4]),))}, {"whole": "of another"}):
        with pytest.raises(KeyUsed, match="another request"):
            await two.ask(tenant="lab", **other)  # type: ignore[arg-type]
    assert (one.asked, two.asked) == (1, 1)


async def test_error_of_a_call_that_may_have_run_is_what_all_workers_give() -> None:
    _, (one, two) = router([failing(RunFailed("bad"))], [echo])
    for worker in (one, two, two):
        with pytest.raises(RunFailed, match="bad"):
            await worker.ask()
    assert (one.asked, two.asked) == (1, 0)


async def test_call_that_is_waited_for_and_is_not_run_fails_for_all_who_wait() -> None:
    _, (one, two) = router([after(2, failing(Overloaded("full", 1.5)))], [echo])
    found = await asyncio.gather(one.ask(), two.ask(), return_exceptions=True)
    assert [(type(each), each.retry_after_s) for each in found] == [(Overloaded, 1.5)] * 2  # type: ignore[union-attr]
    assert (await two.ask()).entry is None


async def test_call_of_a_worker_that_has_died_is_refused_and_never_run_again() -> None:
    ledger, (one, two) = router([after(5, echo)], [echo])
    waiting = asyncio.create_task(one.ask())
    joined = asyncio.create_task(two.ask())
    await asyncio.sleep(1)
    one.dies()
    with pytest.raises(KeyUsed, match="may have run"):
        await joined
    with pytest.raises(KeyUsed, match="may have run"):
        await two.ask()
    assert two.asked == 0
    await asyncio.sleep(KEPT_S)
    assert (await two.ask()).entry is None
    assert len(ledger) == 1
    waiting.cancel()


async def test_main_process_that_takes_no_message_has_the_call_refused() -> None:
    _, (one, _) = router()
    one.is_heard = False
    with pytest.raises(Overloaded, match="has too much to do"):
        await one.ask()
    assert (one.asked, len(one.calls), len(one.calls.alarms)) == (0, 0, 0)


async def test_main_process_that_is_silent_costs_the_deadline_and_no_run() -> None:
    ledger, (one, _) = router()
    one.reads = False  # so that the verdict does not come
    with pytest.raises(DeadlineExceeded):
        await one.ask(allowed_s=2.0)
    await asyncio.sleep(1)
    assert (one.asked, len(one.calls), len(ledger), one.claims._waiting) == (0, 0, 0, {})
    one.reads = True
    assert (await one.ask()).entry is None


async def test_worker_that_does_not_read_has_others_refused() -> None:
    _, (one, two) = router()
    await one.ask()
    one.reads = False
    with pytest.raises(Overloaded, match="is busy"):
        await two.ask()
    assert two.asked == 0


async def test_keys_have_a_bound() -> None:
    ledger, (one, two) = router(most_keys=3)
    for at in range(3):
        await one.ask(f"k{at}")
    with pytest.raises(Overloaded, match="have 3 idempotency keys"):
        await two.ask("k3")
    assert (await two.ask("k1")).entry is not None
    assert (len(ledger), two.asked) == (3, 0)


async def test_answer_that_is_too_large_to_be_passed_on_is_not_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verdicts, "MOST_TOLD_BYTES", 7)
    _, (one, two) = router()
    await one.ask()
    with pytest.raises(KeyUsed, match="8 bytes, of which workers pass on 7"):
        await two.ask()
    assert two.asked == 0


async def test_many_keys_of_many_clients_at_two_workers_are_each_run_once() -> None:
    ledger, workers = router([after(0.01, echo)], [after(0.01, echo)])
    keys = [f"k{at % 25}" for at in range(200)]
    found = await asyncio.gather(
        *(workers[at % 2].ask(key, allowed_s=20.0) for at, key in enumerate(keys))
    )
    assert len(found) == 200
    assert sum(each.asked for each in workers) == 25
    assert (len(ledger), ledger._recalling) == (25, {})
