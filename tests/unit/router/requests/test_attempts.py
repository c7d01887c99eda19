from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    ClientError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LinkLost,
    ModelNotFound,
    ModelUnavailable,
    NoEndpoint,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RequestKills,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.balancing.attempt import Attempt
from capamesh.router.balancing.deaths import Stand
from capamesh.router.balancing.purpose import Purpose
from capamesh.router.requests.attempt_events import (
    Action,
    Answered,
    Failed,
    Probe,
    Send,
    Withdraw,
)
from capamesh.router.requests.attempts import RequestAttempts

pytestmark = pytest.mark.pure

LOAD = LoadReport(1, 0, 8, 9, 10, 0)


class FakeHost:
    """Stands for a `Replica`: a request only hands it on and compares it by identity."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class ScriptedDesk:
    """Chooses in order and grants what it is told to; keeps what it was told, as lines of text."""

    def __init__(
        self,
        names: Iterable[str] = "ABCDEFGH",
        *,
        retries: int = 9,
        hedges: int = 9,
        hedge_delay_s: float | None = None,
        first_byte_limit_s: float = 1e9,
        passes: int = 99,
        opinions: int = 0,
        can_wait: bool = False,
    ) -> None:
        self.replicas = [FakeHost(name) for name in names]
        self.retries = retries
        self.hedges = hedges
        self.passes = passes
        self.opinions = opinions
        self.can_wait = can_wait
        self.back_s = 0.0
        self.ample_s = 0.5
        self.linked_s: dict[str, float] = {}
        self.alive_s: dict[str, float] = {}
        self.standing = self.final_stand = Stand.FREE
        self.is_huge = False
        self.is_lacking = False
        self.alone = ""
        """The hosts of the invite that alone says that a request may not run twice."""
        self.delay_s = hedge_delay_s
        self.limit_s = first_byte_limit_s
        self.nobody: CapameshError = NoEndpoint("nobody is left")
        self.reported: list[str] = []
        self.remaining_s: list[float] = []
        self.attempts: list[Attempt] = []
        self.asked_before: list[int] = []
        self.purposes: list[Purpose] = []
        self.answered_s: dict[str, float] = {}

    def choose(
        self, asked: Collection[FakeHost], now_s: float, purpose: Purpose = Purpose.FIRST
    ) -> FakeHost:
        self.asked_before.append(len(asked))
        self.purposes.append(purpose)
        for replica in self.replicas:
            if replica not in asked:
                return replica
        raise self.nobody

    def sent(self, replica: FakeHost, now_s: float) -> None:
        self.reported.append(f"sent {replica}")

    def answered(
        self,
        replica: FakeHost,
        load: LoadReport,
        elapsed_s: float,
        at_node_s: float,
        size_bytes: int,
        now_s: float,
    ) -> None:
        assert load is LOAD
        self.reported.append(f"answered {replica} {elapsed_s:g} {at_node_s:g} {size_bytes}")

    def failed(
        self, replica: FakeHost, error: CapameshError, elapsed_s: float, now_s: float
    ) -> None:
        self.reported.append(f"failed {replica} {error.code} {elapsed_s:g}")

    def silent(self, replica: FakeHost, elapsed_s: float, now_s: float) -> None:
        self.reported.append(f"silent {replica} {elapsed_s:g}")

    def withdrawn(self, replica: FakeHost, elapsed_s: float, now_s: float) -> None:
        self.reported.append(f"withdrawn {replica} {elapsed_s:g}")

    def try_retry(self, now_s: float) -> bool:
        self.retries -= 1
        return self.retries >= 0

    def refuted(
        self, replica: FakeHost, by: FakeHost, error: CapameshError, elapsed_s: float, now_s: float
    ) -> None:
        self.reported.append(f"refuted {replica} {error.code} {elapsed_s:g} by {by}")

    def has_time_left(self, replica: FakeHost, remaining_s: float) -> bool:
        return remaining_s > self.ample_s

    def is_back(self, replica: FakeHost, since_s: float) -> bool:
        return self.linked_s.get(replica.name, -math.inf) > since_s

    def died(self, replica: FakeHost, now_s: float) -> None:
        self.reported.append(f"died {replica}")

    def stand(self, *, is_final: bool = False) -> Stand:
        return self.final_stand if is_final else self.standing

    def is_far_above_usual(self, replica: FakeHost) -> bool:
        return self.is_huge

    def ended(self, *, is_guilty: bool) -> None:
        self.reported.append("guilty" if is_guilty else "unknown")

    def left(self, replica: FakeHost, now_s: float) -> None:
        self.reported.append(f"left {replica}")

    def is_alive(self, replica: FakeHost, since_s: float) -> bool:
        return self.alive_s.get(replica.name, math.inf) >= since_s

    def wait_until_s(self, asked: Collection[FakeHost], now_s: float) -> float:
        if not self.can_wait or (self.replicas and set(asked) >= set(self.replicas)):
            return -math.inf
        return self.back_s or now_s

    def cross_check(
        self, of: FakeHost, asked: Collection[FakeHost], now_s: float
    ) -> FakeHost | None:
        replica = next((replica for replica in self.replicas if replica not in asked), None)
        if not self.is_lacking and self.attempts[-1].replica is not of:
            return None
        self.opinions -= replica is not None
        return replica if self.opinions >= 0 else None

    def lacks_word(self, now_s: float) -> bool:
        return self.is_lacking

    def may_repeat_after(self, replica: FakeHost) -> bool:
        return replica.name in self.alone

    def try_pass_on(self, now_s: float) -> bool:
        self.passes -= 1
        return self.passes >= 0

    def try_hedge(self, now_s: float) -> bool:
        self.hedges -= 1
        return self.hedges >= 0

    def hedge_delay_s(self, now_s: float) -> float | None:
        return self.delay_s

    def first_byte_limit_s(self, replica: FakeHost, remaining_s: float, now_s: float) -> float:
        self.remaining_s.append(remaining_s)
        return self.limit_s

    def has_answered(self, replica: FakeHost, since_s: float) -> bool:
        return self.answered_s.get(replica.name, -math.inf) > since_s


def flight_at(
    picker: ScriptedDesk,
    *,
    deadline_s: float = 110.0,
    is_safe: bool = True,
    may_be_safe: bool = False,
    is_hedged: bool = False,
    max_attempts: int = 3,
    max_refusals: int = 3,
    is_pinned: bool = False,
    max_wait_s: float = 3.0,
) -> RequestAttempts:
    picker.attempts = []  # a picker is one request's
    return RequestAttempts(
        picker,
        deadline_s=deadline_s,
        size_bytes=1000,
        is_safe=is_safe,
        may_be_safe=may_be_safe,
        is_hedged=is_hedged,
        max_attempts=max_attempts,
        max_refusals=max_refusals,
        is_pinned=is_pinned,
        max_wait_s=max_wait_s,
    )


def started(picker: ScriptedDesk, **options: float) -> RequestAttempts:
    """A request that was started at 100 s, with 10 s to live, and asks A."""
    attempts = flight_at(picker, **options)
    assert said(attempts.start(100.0)) == ["send 0 to A, 10000 ms"]
    return attempts


def said(actions: Sequence[Action]) -> list[str]:
    lines = []
    for action in actions:
        match action:
            case Send(attempt=attempt, replica=replica, budget_ms=budget_ms):
                lines.append(f"send {attempt} to {replica}, {budget_ms} ms")
            case Probe(replica=replica):
                lines.append(f"probe {replica}")
            case Withdraw(attempt=attempt):
                lines.append(f"withdraw {attempt}")
            case Answered(attempt=attempt):
                lines.append(f"answered by {attempt}")
            case Failed(error=error):
                lines.append(f"failed: {error.code}")
    return lines


def answer(attempts: RequestAttempts, attempt: int, now_s: float) -> list[str]:
    return said(attempts.answered(attempt, LOAD, 0.25, 500, now_s))


def fail(attempts: RequestAttempts, attempt: int, error: CapameshError, now_s: float) -> list[str]:
    return said(attempts.failed(attempt, error, now_s))


def tick(attempts: RequestAttempts, now_s: float) -> list[str]:
    return said(attempts.tick(now_s))


REFUSALS = [Overloaded("full"), Draining("leaving"), ModelUnavailable("loading")]
UNKNOWN = [LinkLost("gone"), RunFailed("crashed"), ProtocolViolation("odd"), PeerError("?")]
FINAL = [InvalidRequest("bad"), TooLarge("big"), ClientError("odd")]
UNTRUE = [ModelNotFound("no"), Cancelled("who?"), DeadlineExceeded("late")]
"""The node's fault, with so much time left."""


# one attempt


def test_attempts_have_nothing_due_before_the_start() -> None:
    attempts = flight_at(ScriptedDesk())
    assert attempts.due_s == math.inf
    assert attempts.tick(1e9) == ()
    assert repr(attempts) == "RequestAttempts(0 attempts, 0 under way)"


# refusals


@pytest.mark.parametrize(
    "hints_s", [(0.0, 2.0, 0.5, 3.0), (3.0, 0.0, 0.5, 0.0)], ids=["0 first", "0 last"]
)
def test_one_full_node_more_than_is_allowed_ends_it_with_the_smallest_hint_that_was_given(
    hints_s: tuple[float, ...],
) -> None:
    errors = [Overloaded("full", hint_s) for hint_s in hints_s]
    picker = ScriptedDesk()
    attempts = started(picker)
    for number, error in enumerate(errors[:3]):
        assert len(fail(attempts, number, error, 101.0)) == 1
    assert attempts.failed(3, errors[3], 101.0) == (Failed(errors[2]),)
    assert picker.asked_before == [0, 1, 2, 3]
    assert attempts.due_s == math.inf


# what a node says is the caller's fault


def test_request_that_was_never_sent_needs_no_second_opinion() -> None:
    attempts = started(ScriptedDesk(opinions=1))
    error = TooLarge("a message of 1 GB")
    assert attempts.failed(0, error, 100.0, is_unsent=True) == (Failed(error),)


def test_request_is_told_that_the_fleet_is_full_where_the_word_is_lacking_of_who_is_full() -> None:
    for is_lacking in (True, False):
        picker = ScriptedDesk("AB", opinions=9)
        picker.is_lacking = is_lacking
        attempts = started(picker)
        bad, full = InvalidRequest("bad"), Overloaded("full", 0.5)
        attempts.failed(0, bad, 101.0)
        assert attempts.failed(1, full, 102.0) == (Failed(full if is_lacking else bad),)


def test_word_of_one_invite_is_no_verdict_at_the_deadline_either() -> None:
    for is_lacking in (True, False):
        picker = ScriptedDesk("AB", opinions=9)
        picker.is_lacking = is_lacking
        bad, late = InvalidRequest("bad"), DeadlineExceeded("late")
        wanted = "deadline_exceeded" if is_lacking else "invalid_request"
        waiting = started(picker)
        assert fail(waiting, 0, bad, 109.0) == ["send 1 to B, 1000 ms"]
        assert tick(waiting, 110.0) == [f"failed: {wanted}", "withdraw 1"]
        told = started(picker)
        assert fail(told, 0, bad, 109.0) == ["send 1 to B, 1000 ms"]
        assert fail(told, 1, late, 109.9) == [f"failed: {wanted}"]
        at_once = started(picker)
        assert fail(at_once, 0, bad, 110.0) == [f"failed: {wanted}"]


@pytest.mark.parametrize("alone", ["A", "B"])
@pytest.mark.parametrize("error", [InvalidRequest("bad"), RunFailed("no"), None], ids=str)
def test_request_that_its_node_alone_calls_unrepeatable_goes_to_another(
    alone: str, error: CapameshError | None
) -> None:
    picker = ScriptedDesk(opinions=1, first_byte_limit_s=2.0)
    picker.alone = alone
    attempts = started(picker, is_safe=False, may_be_safe=True)
    found = fail(attempts, 0, error, 102.0) if error else tick(attempts, 102.0)
    if alone == "A":
        assert found == ["send 1 to B, 8000 ms"]
    else:
        assert found == ([f"failed: {error.code}"] if error else [])
    forbidden = started(ScriptedDesk(opinions=1), is_safe=False)  # by more than that word
    assert fail(forbidden, 0, RunFailed("no"), 102.0) == ["failed: run_failed"]


# what no caller can be at fault for


@pytest.mark.parametrize("error", UNTRUE, ids=lambda error: error.code)
def test_error_that_cannot_be_the_caller_s_fault_is_the_node_s_and_retried(
    error: CapameshError,
) -> None:
    picker = ScriptedDesk()
    attempts = started(picker)
    assert fail(attempts, 0, error, 100.25) == ["send 1 to B, 9750 ms"]
    is_refused = isinstance(error, ModelNotFound)
    judged = "model_unavailable" if is_refused else "peer_error"
    assert picker.reported == ["sent A", f"failed A {judged} 0.25", "sent B"]
    assert picker.retries == (9 if is_refused else 8)
    assert answer(attempts, 1, 101.0) == ["answered by 1"]
    only = ScriptedDesk("A")
    alone = started(only)
    (final,) = alone.failed(0, error, 100.25)
    assert isinstance(final, Failed)
    assert final.error.code == (error.code if isinstance(error, DeadlineExceeded) else judged)
    assert only.attempts[0].record().outcome == (
        f"{judged}: the node answered {error.code} with 9.750 s left: {error.message}"
    )


# without a link


def test_request_waits_longer_where_a_link_is_to_be_back_but_not_for_ever() -> None:
    for back_s, due_s in ((101.0, 103.0), (107.0, 107.0), (150.0, 110.0)):
        picker = ScriptedDesk("", can_wait=True)
        picker.back_s = back_s
        attempts = flight_at(picker)
        attempts.start(100.0)
        assert attempts.due_s == due_s
    picker.back_s = 900.0
    attempts = flight_at(picker, deadline_s=999.0)
    attempts.start(100.0)
    assert attempts.linked(110.0) == ()
    assert attempts.due_s == 120.0
    (final,) = attempts.tick(120.0)
    assert isinstance(final, Failed)
    assert str(final.error) == "nobody is left (waited 20.0 s for a link)"


def test_replica_lost_with_its_link_is_asked_again_over_a_new_one_when_no_other_is_left() -> None:
    picker = ScriptedDesk("AB", can_wait=True)
    attempts = started(picker)
    picker.linked_s = {"A": 99.0}
    assert fail(attempts, 0, LinkLost("reset"), 101.0) == ["send 1 to B, 9000 ms"]
    assert fail(attempts, 1, RunFailed("crashed"), 102.0) == []  # waits for A
    picker.linked_s = {"A": 102.5, "B": 102.5}
    assert said(attempts.linked(102.5)) == ["send 2 to A, 7500 ms"]
    assert picker.retries == 7
    assert fail(attempts, 2, LinkLost("reset"), 103.0) == ["failed: link_lost"]  # three have run it
    unsafe = started(ScriptedDesk("A", can_wait=True), is_safe=False)
    assert fail(unsafe, 0, LinkLost("reset"), 101.0) == ["failed: link_lost"]
    poor = started(ScriptedDesk("A", can_wait=True, retries=0))
    assert fail(poor, 0, LinkLost("reset"), 101.0) == ["failed: link_lost"]


# what a process may have died of


def sudden() -> LinkLost:
    """The link ended without a word."""
    error = LinkLost("the peer closed it")
    error.is_sudden = True
    return error


def test_replica_that_is_to_repeat_it_gives_a_sign_of_life_first() -> None:
    for sign_s in (101.01, math.inf):
        picker = ScriptedDesk("AB")
        attempts = started(picker)
        picker.alive_s = {"B": 100.9}
        assert fail(attempts, 0, sudden(), 101.0) == ["probe B"]
        assert (attempts.is_waiting, attempts.awaits_life, attempts.due_s) == (True, True, 101.25)
        assert said(attempts.linked(101.005)) == []  # another node's
        assert tick(attempts, 101.2) == []
        if sign_s < math.inf:
            picker.alive_s = {"B": sign_s}
            assert said(attempts.linked(101.02)) == ["send 1 to B, 8980 ms"]
        else:  # its link stands: it is busy
            assert tick(attempts, 101.25) == ["send 1 to B, 8750 ms"]
        assert not attempts.awaits_life


def test_request_that_ends_processes_is_not_acquitted_by_one_that_calls_it_wrong() -> None:
    picker = ScriptedDesk(opinions=9)
    picker.is_lacking = True
    attempts = started(picker)
    picker.alive_s = {"C": 101.9}
    assert fail(attempts, 0, InvalidRequest("bad"), 101.0) == ["send 1 to B, 9000 ms"]
    # who is asked next may have ended with it
    assert fail(attempts, 1, sudden(), 102.0) == ["probe C"]
    assert (attempts.is_waiting, attempts.awaits_life) == (True, True)
    assert said(attempts.linked(102.1)) == []
    picker.alive_s = {"C": 102.1}
    assert said(attempts.linked(102.1)) == ["send 2 to C, 7900 ms"]
    picker.standing = picker.final_stand = Stand.GUILTY
    (final,) = attempts.failed(2, sudden(), 103.0)
    assert isinstance(final, Failed)
    assert isinstance(final.error, RequestKills)
    assert picker.reported[-1] == "guilty"


def test_request_waits_while_it_is_open_who_is_guilty_and_may_be_cleared() -> None:
    for outcome in (Stand.FREE, Stand.GUILTY, Stand.OPEN):
        picker = ScriptedDesk()
        attempts = flight_at(picker, deadline_s=200.0)
        attempts.start(100.0)
        attempts.failed(0, sudden(), 101.0)
        picker.standing = Stand.OPEN
        assert fail(attempts, 1, sudden(), 102.0) == []
        assert (attempts.is_waiting, attempts.due_s) == (True, 122.0)
        assert said(attempts.linked(103.0)) == []
        picker.standing = outcome
        picker.final_stand = Stand.FREE
        if outcome is Stand.FREE:
            assert said(attempts.linked(104.0)) == ["send 2 to C, 96000 ms"]
            assert answer(attempts, 2, 105.0) == ["answered by 2"]
        elif outcome is Stand.GUILTY:
            assert said(attempts.linked(104.0)) == ["failed: request_kills"]
        else:
            assert tick(attempts, 121.9) == []
            assert tick(attempts, 122.0) == ["failed: link_lost"]
            assert picker.reported[-1] == "unknown"


def test_request_far_above_the_usual_size_is_not_repeated_at_all() -> None:
    picker = ScriptedDesk()
    picker.is_huge = True
    attempts = started(picker)
    (final,) = attempts.failed(0, sudden(), 101.0)
    assert isinstance(final, Failed)
    assert isinstance(final.error, RequestKills)
    assert final.error.deaths == 1
    assert picker.reported[-1] == "unknown"  # one death is no proof
    attempts = started(picker)
    assert fail(attempts, 0, LinkLost("silent for 6 s"), 101.0) == ["send 1 to B, 9000 ms"]


def test_node_that_says_that_a_request_kills_is_believed_no_more_than_that_its_run_failed() -> None:
    picker = ScriptedDesk("A")
    assert fail(started(picker), 0, RequestKills("it says so"), 101.0) == ["failed: run_failed"]


@pytest.mark.parametrize("names", ["A", "AB"], ids=["waits", "is under way"])
def test_client_that_leaves_after_a_death_leaves_open_once_whose_fault_it_was(names: str) -> None:
    picker = ScriptedDesk(names, can_wait=True)
    attempts = started(picker)
    fail(attempts, 0, sudden(), 101.0)
    assert attempts.is_waiting == (names == "A")
    for _ in range(2):
        attempts.abandon(102.0)
        assert picker.reported.count("unknown") == 1


# the hedge


def test_slow_attempt_is_joined_by_another_and_the_first_answer_wins() -> None:
    picker = ScriptedDesk(hedge_delay_s=0.5)
    attempts = started(picker, is_hedged=True)
    assert attempts.due_s == 100.5
    assert attempts.tick(100.25) == ()
    assert tick(attempts, 100.5) == ["send 1 to B, 9500 ms"]
    assert attempts.due_s == 110.0
    assert answer(attempts, 1, 100.75) == ["answered by 1", "withdraw 0"]
    assert picker.reported == [
        "sent A",
        "sent B",
        "answered B 0.25 0.25 1500",
        "withdrawn A 0.75",
    ]
    assert (picker.hedges, picker.retries) == (8, 9)


def test_hedge_that_gets_no_token_is_not_asked_for_again() -> None:
    picker = ScriptedDesk(hedges=0, hedge_delay_s=0.5)
    attempts = started(picker, is_hedged=True)
    assert attempts.tick(100.5) == ()
    assert attempts.due_s == 110.0
    assert fail(attempts, 0, LinkLost("gone"), 101.0) == ["send 1 to B, 9000 ms"]
    assert attempts.due_s == 110.0
    assert picker.hedges == -1


def test_hedge_counts_as_an_attempt() -> None:
    picker = ScriptedDesk(hedge_delay_s=0.5)
    attempts = started(picker, is_hedged=True, max_attempts=1)
    assert attempts.tick(100.5) == ()
    assert picker.hedges == 9
    attempts = started(picker, is_hedged=True, max_attempts=2)
    assert len(attempts.tick(100.5)) == 1
    assert fail(attempts, 0, LinkLost("gone"), 101.0) == []
    assert fail(attempts, 1, RunFailed("crashed"), 101.0) == ["failed: run_failed"]


# silence


def test_silent_attempt_is_reported_of_once_and_another_asked_while_it_may_still_answer() -> None:
    picker = ScriptedDesk(first_byte_limit_s=0.5)
    attempts = started(picker)
    assert attempts.due_s == 100.5
    assert tick(attempts, 100.5) == ["send 1 to B, 9500 ms"]
    assert attempts.due_s == 101.0
    assert picker.reported == ["sent A", "silent A 0.5", "sent B"]
    assert answer(attempts, 0, 100.75) == ["answered by 0", "withdraw 1"]
    assert picker.reported[3:] == ["answered A 0.75 0.25 1500", "withdrawn B 0.25"]
    assert picker.retries == 8


# any order of events


class CountingDesk(ScriptedDesk):
    """Counts like the balancer, and objects to a replica that is asked twice or ended twice."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(
            "ABCDEFGHIJKL"[: rng.randint(0, 12)],
            retries=rng.choice([0, 1, 9]),
            hedges=rng.choice([0, 1, 9]),
            opinions=rng.choice([0, 1, 9]),
            can_wait=rng.random() < 0.5,
        )
        self.rng = rng
        self.rif: dict[FakeHost, int] = {}
        self.silents: set[FakeHost] = set()
        self.deaths = 0
        self.is_reported = False
        self.lost: set[FakeHost] = set()

    def sent(self, replica: FakeHost, now_s: float) -> None:
        assert replica not in self.rif or replica in self.lost, (
            f"{replica} is asked twice over one link"
        )
        self.lost.discard(replica)
        self.silents.discard(replica)
        self.rif[replica] = 1

    def _ended(self, replica: FakeHost) -> None:
        assert self.rif[replica] == 1, f"{replica} ended twice"
        self.rif[replica] = 0

    def answered(self, replica: FakeHost, *_: object) -> None:
        self._ended(replica)

    def failed(self, replica: FakeHost, error: CapameshError, *_: object) -> None:
        self._ended(replica)
        if isinstance(error, LinkLost):
            self.lost.add(replica)

    def withdrawn(self, replica: FakeHost, *_: object) -> None:
        self._ended(replica)

    def silent(self, replica: FakeHost, *_: object) -> None:
        assert self.rif[replica] == 1, f"{replica} is silent and not under way"
        assert replica not in self.silents, f"{replica} is silent twice"
        self.silents.add(replica)

    def hedge_delay_s(self, now_s: float) -> float | None:
        return self.rng.choice([None, 0.0, 0.3, 2.0])

    def first_byte_limit_s(self, replica: FakeHost, remaining_s: float, now_s: float) -> float:
        return self.rng.choice([0.0, 0.5, 3.0, 1e9])

    def has_answered(self, replica: FakeHost, since_s: float) -> bool:
        return self.rng.random() < 0.3

    def died(self, replica: FakeHost, now_s: float) -> None:
        self.deaths += 1

    def stand(self, *, is_final: bool = False) -> Stand:
        assert self.deaths
        assert not self.is_reported
        self.standing = self.rng.choice(list(Stand)) if self.deaths > 1 else Stand.FREE
        return self.standing

    def is_far_above_usual(self, replica: FakeHost) -> bool:
        return self.rng.random() < 0.1

    def ended(self, *, is_guilty: bool) -> None:
        assert self.deaths
        assert not self.is_reported, "its end is told twice"
        assert not is_guilty or self.standing is Stand.GUILTY
        self.is_reported = True

    def is_alive(self, replica: FakeHost, since_s: float) -> bool:
        return since_s == -math.inf or self.rng.random() < 0.5

    def left(self, replica: FakeHost, now_s: float) -> None:
        assert self.rif[replica] == 1


class Observed:
    """A request and what its actions add up to; checks the laws at each step."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.picker = CountingDesk(rng)
        self.is_safe = rng.random() < 0.7
        self.max_attempts = rng.randint(1, 4)
        self.max_refusals = rng.randint(0, 4)
        self.deadline_s = rng.choice([0.0, 1.0, 6.0, 30.0])
        self.attempts = flight_at(
            self.picker,
            deadline_s=self.deadline_s,
            is_safe=self.is_safe,
            is_hedged=rng.random() < 0.7,
            max_attempts=self.max_attempts,
            max_refusals=self.max_refusals,
        )
        self.under_way: set[int] = set()
        self.sends = 0
        self.passed_by = 0
        self.finals = 0
        self.is_abandoned = False

    @property
    def is_over(self) -> bool:
        return self.finals > 0 or self.is_abandoned

    def see(self, actions: tuple[Action, ...], now_s: float) -> None:
        assert not (actions and self.finals), "an action after the end"
        for action in actions:
            match action:
                case Send(attempt=attempt, budget_ms=budget_ms):
                    assert not self.finals
                    assert attempt == self.sends
                    assert budget_ms == max(1, int((self.deadline_s - now_s) * 1000))
                    self.sends += 1
                    self.under_way.add(attempt)
                case Probe():
                    assert self.attempts.awaits_life
                    assert self.picker.deaths
                case Withdraw(attempt=attempt):
                    self.under_way.remove(attempt)
                case Answered() | Failed():
                    assert not self.finals
                    self.finals += 1
        assert sum(self.picker.rif.values()) == len(self.under_way)
        assert self.sends - self.passed_by <= self.max_attempts + 1  # one whose link was silent
        if not self.is_safe:
            assert len(self.under_way) <= 1
        if self.is_over:
            assert (self.under_way, self.attempts.due_s) == (set(), math.inf)
        else:
            assert bool(self.under_way) != self.attempts.is_waiting
            assert self.attempts.due_s <= self.deadline_s

    def answered(self, attempt: int, now_s: float) -> None:
        was_awaited = attempt in self.under_way
        self.under_way.discard(attempt)
        actions = self.attempts.answered(attempt, LOAD, 0.0, 1, now_s)
        assert actions[:1] == ((Answered(attempt),) if was_awaited else ())
        self.see(actions, now_s)

    def failed(self, attempt: int, error: CapameshError, now_s: float) -> None:
        if attempt in self.under_way:
            self.under_way.remove(attempt)
            # that it lacks a model which it advertises is a refusal, too
            self.passed_by += type(error) in {Overloaded, Draining, ModelUnavailable} or isinstance(
                error, ModelNotFound
            )
            self.see(self.attempts.failed(attempt, error, now_s), now_s)
        else:
            assert self.attempts.failed(attempt, error, now_s) == ()

    def linked(self, now_s: float) -> None:
        """A node, or none that hosts the model, has a new link."""
        for replica in self.picker.replicas:
            if self.picker.rng.random() < 0.5:
                self.picker.linked_s[replica.name] = now_s
        self.see(self.attempts.linked(now_s), now_s)

    def abandon(self, now_s: float) -> None:
        was_over = self.is_over
        actions = self.attempts.abandon(now_s)
        assert all(isinstance(action, Withdraw) for action in actions)
        assert not (was_over and actions)
        self.is_abandoned = True
        self.see(actions, now_s)


EVENTS = st.one_of(
    st.tuples(st.just("answered"), st.integers(0, 13), st.none()),
    st.tuples(st.just("failed"), st.integers(0, 13), st.sampled_from([*REFUSALS, *UNKNOWN])),
    st.tuples(st.just("failed"), st.integers(0, 13), st.sampled_from([*REFUSALS, *UNKNOWN])),
    st.tuples(st.just("failed"), st.integers(0, 13), st.sampled_from([*FINAL, *UNTRUE])),
    st.tuples(st.just("failed"), st.integers(0, 13), st.builds(sudden)),
    st.tuples(st.just("linked"), st.none(), st.none()),
    st.tuples(st.sampled_from(["due", "tick", "tick"]), st.none(), st.none()),
    st.tuples(st.just("abandon"), st.none(), st.none()),
)


@pytest.mark.full
@settings(max_examples=300, deadline=None)
@example(4, [(("failed", 0, ModelNotFound("no")), 0.0)])  # its one node has unloaded the model
@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(EVENTS, st.sampled_from([0.0, 0.1, 1.0])), max_size=30),
)
def test_request_and_every_attempt_end_once_whatever_happens(
    seed: int, script: list[tuple[tuple[str, int | None, CapameshError | None], float]]
) -> None:
    seen = Observed(seed)
    now_s = 0.0
    seen.see(seen.attempts.start(now_s), now_s)
    for (event, attempt, error), wait_s in script:
        now_s += wait_s
        if event == "due" and seen.attempts.due_s < math.inf:
            now_s = max(now_s, seen.attempts.due_s)
        if event in {"due", "tick"}:
            was_due = now_s >= seen.attempts.due_s
            actions = seen.attempts.tick(now_s)
            assert was_due or actions == ()
            seen.see(actions, now_s)
            assert seen.attempts.due_s > now_s or math.isclose(seen.attempts.due_s, now_s)
        elif event == "abandon":
            seen.abandon(now_s)
        elif event == "linked":
            seen.linked(now_s)
        elif seen.sends:
            # mostly of an attempt that is under way, now and then of one that has ended
            which = sorted(seen.under_way) if attempt < 10 and seen.under_way else range(seen.sends)
            chosen = which[attempt % len(which)]
            if error is None:
                seen.answered(chosen, now_s)
            else:
                seen.failed(chosen, error, now_s)
    if not seen.is_over:
        for _ in range(50):
            if seen.is_over:
                break
            now_s = max(now_s, seen.attempts.due_s)
            seen.see(seen.attempts.tick(now_s), now_s)
    assert seen.finals + (seen.is_abandoned and not seen.finals) == 1
    assert set(seen.picker.rif.values()) <= {0}
    assert all(attempt.ended_s is not None for attempt in seen.picker.attempts)
    assert seen.sends == seen.attempts.attempts >= len(seen.picker.rif)
    assert not seen.attempts.is_waiting
    assert seen.sends <= seen.max_attempts + seen.passed_by + 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(REFUSALS), max_size=12), st.integers(0, 4), st.integers(0, 12))
def test_fleet_that_refuses_is_asked_once_each_and_of_the_full_ones_one_more_than_allowed(
    errors: list[CapameshError], max_refusals: int, replicas: int
) -> None:
    picker = ScriptedDesk("ABCDEFGHIJKL"[:replicas])
    attempts = flight_at(picker, max_refusals=max_refusals)
    actions = attempts.start(100.0)
    overloads = 0
    for error in [*errors, *[Overloaded("full")] * 12]:
        if not isinstance(actions[0], Send):
            break
        overloads += isinstance(error, Overloaded)
        actions = attempts.failed(actions[0].attempt, error, 100.0)
        assert len(actions) == 1
    assert isinstance(actions[0], Failed)
    assert overloads == max_refusals + 1 or attempts.attempts == replicas
    assert overloads <= max_refusals + 1
    assert picker.retries == 9
