"""The limits of keys and the counting of what they use, on a clock of the test's own."""

from __future__ import annotations

import datetime as dt
from functools import reduce
from typing import Any

import pytest

from capamesh.protocol.errors import TooManyRequests
from capamesh.router.access import quotas as module
from capamesh.router.access.keys import Key, Scope
from capamesh.router.access.months import LEAST_ROWS
from capamesh.router.access.quotas import OTHERS, Lease, Quotas
from capamesh.router.access.usage_batch import Amount, UsageRow

NOVEMBER_S = dt.datetime(2026, 11, 30, 22, 30, tzinfo=dt.UTC).timestamp()
HOUR = int(NOVEMBER_S) // 3600


def key_of(name: str = "k", tenant: str = "lab", **scope: Any) -> Key:
    return Key(name, b"", tenant, Scope(**scope))


def made(*keys: Key, processes: int = 1) -> Quotas:
    quotas = Quotas(processes)
    quotas.tick(NOVEMBER_S, keys)
    return quotas


def admit(
    quotas: Quotas, key: Key, *, rows: int = 1, size_bytes: int = 0, now_s: float = 0.0
) -> Lease:
    return quotas.admit(key, "m", rows, size_bytes, now_s)


def refusal(quotas: Quotas, key: Key, **request: Any) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as caught:
        admit(quotas, key, **request)
    return caught.value


def test_key_pays_for_the_rows_that_a_request_came_to() -> None:
    key = key_of(rows_per_s=100, rows_per_month=LEAST_ROWS * 100)
    quotas = made(key)
    admit(quotas, key, rows=90).settle(7, 20)  # 70 of the 90 are given back
    admit(quotas, key, rows=80).settle(None, 20)  # not answered: its rows are gone, not counted
    assert "the key may send 100 rows a second" in refusal(quotas, key, rows=1).message
    assert quotas.unwritten().keys == {"k": Amount(1, 20, 7)}
    longer = made(key)
    admit(longer, key, rows=10).settle(7, 110)
    assert longer.unwritten().keys == {"k": Amount(1, 110, 7)}
    assert refusal(longer, key, rows=1).retry_after_s == pytest.approx(0.11)


def test_lease_that_is_given_back_was_never_taken() -> None:
    key = key_of(
        requests_per_s=1, rows_per_s=8, bytes_per_s=100, concurrency=1, rows_per_month=LEAST_ROWS
    )
    quotas = made(key)
    for _ in range(5):
        lease = admit(quotas, key, rows=8, size_bytes=100)
        again = key_of(concurrency=1)  # read anew, it goes on with what it has used
        assert "1 requests of the key are under way" in refusal(quotas, again).message
        lease.give_back()
        lease.settle(7)
        lease.give_back()
    assert quotas.unwritten().rows == {}
    admit(quotas, key, rows=8, size_bytes=100).settle(1)
    assert quotas.unwritten().keys == {"k": Amount(1, 8, 101)}


def test_rows_of_a_month_are_reserved_and_given_back_when_nobody_answers() -> None:
    key = key_of(rows_per_month=10)
    quotas = made(key)
    lease = admit(quotas, key, rows=6)
    error = refusal(quotas, key, rows=5)
    assert "has used 6 of its 10 rows of 2026-11, and the request has 5" in error.message
    assert error.retry_after_s == 2 * 3600
    lease.settle()
    admit(quotas, key, rows=10).settle(0)
    refusal(quotas, key)
    quotas.tick(NOVEMBER_S + 2 * 3600, [key])
    admit(quotas, key, rows=10)


@pytest.mark.pure
def test_usage_that_cannot_be_written_is_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PENDING", 2)
    keys = [key_of(str(number), f"t{number}") for number in range(5)]
    quotas = made(*keys)
    for key in keys:
        admit(quotas, key).settle(0)
    assert set(quotas.unwritten().rows) == {
        UsageRow(HOUR, "t0", "m"),
        UsageRow(HOUR, "t1", "m"),
        UsageRow(HOUR, OTHERS, OTHERS),
    }
    assert sum(amount.requests for amount in quotas.unwritten().rows.values()) == 5


class Routers:
    """Several routers that share a store: each hears of the others once a second, at a time of its own."""

    def __init__(self, key: Key, count: int, *, are_workers: bool = False) -> None:
        """`are_workers`: they are the processes of one router."""
        self.key = key
        self.quotas = [made(key, processes=count if are_workers else 1) for _ in range(count)]
        self.totals = dict.fromkeys(range(count), Amount())
        self.now_s = 0.0

    def exchange(self, at: int) -> None:
        usage = self.quotas[at].unwritten()
        self.totals[at] = self.totals[at].plus(usage.keys.get("k", Amount()))
        total = reduce(Amount.plus, self.totals.values())
        others = sum(each.requests > 0 for of, each in self.totals.items() if of != at)
        self.quotas[at].written(usage, {"k": total}, {"k": others}, self.now_s)

    def run(self, seconds: int, asked_per_s: list[int], rows: int = 1) -> list[int]:
        """Send so many requests a second to each router; return how many each has answered."""
        answered = [0] * len(self.quotas)
        for tick in range(seconds * 100):
            self.now_s += 0.01
            for at, per_s in enumerate(asked_per_s):
                for _ in range(per_s // 100):
                    try:
                        admit(self.quotas[at], self.key, rows=rows, now_s=self.now_s).settle(0)
                    except TooManyRequests:
                        break
                    answered[at] += 1
                if tick % 100 == 33 * at % 100:
                    self.exchange(at)
        return answered


@pytest.mark.parametrize(
    ("asked_per_s", "least"),
    [
        ([1000], [0.99]),
        ([1000, 1000, 1000], [0.3, 0.3, 0.3]),
        ([1000, 0, 1000], [0.4, 0.0, 0.4]),
        ([1000, 1000, 100], [0.3, 0.3, 0.28]),  # 100 is the limit: each gets as much as any other
        ([1000, 1000, 0, 0, 0, 0, 0, 0], [0.4, 0.4, 0, 0, 0, 0, 0, 0]),
        ([1000] * 8, [0.1] * 8),
    ],
)
def test_rate_holds_for_all_routers_together(asked_per_s: list[int], least: list[float]) -> None:
    routers = Routers(key_of(requests_per_s=100), len(asked_per_s))
    begun = sum(routers.run(30, asked_per_s))
    answered = routers.run(60, asked_per_s)
    assert 0.97 * 6000 <= sum(answered) <= 1.03 * 6000
    assert begun <= 3000 + 100 + 300  # full buckets, of which the last are not made up for
    for each, part in zip(answered, least, strict=True):
        assert each >= part * 6000


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("seconds", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("per_s", [50, 1000])
def test_rate_holds_over_workers_from_the_first_second_on(
    count: int, seconds: int, per_s: int
) -> None:
    workers = Routers(key_of(requests_per_s=per_s), count, are_workers=True)
    answered = sum(workers.run(seconds, [2000] * count))
    allowed = per_s * (seconds + 1)
    assert 0.95 * per_s * seconds <= answered <= 1.05 * allowed


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("asked_per_s", [3000, 500, 100])
def test_rows_of_a_month_hold_for_all_routers_together(asked_per_s: int, rows: int) -> None:
    routers = Routers(key_of(rows_per_month=10_000), 3)
    answered = rows * sum(routers.run(50, [asked_per_s] * 3, rows))
    assert 10_000 - rows < answered <= 10_000 + 2 * LEAST_ROWS


def test_requests_at_a_time_are_shared_among_those_that_have_some() -> None:
    key = key_of(concurrency=9)
    quotas = made(key, processes=3)
    for others, most in ((None, 3), (0, 9), (1, 5), (8, 1)):
        leases = []
        if others is not None:
            quotas.written(quotas.unwritten(), {}, {"k": others}, 0.0)
        while len(leases) < most:
            leases.append(admit(quotas, key))
        assert "under way" in refusal(quotas, key).message
        for lease in leases:
            lease.settle()
