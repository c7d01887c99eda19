"""Holds each key to its limits, and counts what its tenant uses. Pure; the times are arguments.

Rates are those of token buckets that hold what a second gives, and one request at least: what is larger than a full bucket may pass
when it is full, and the bucket is in debt afterwards. Rows of a month are reserved when a request is let in and settled when
it ends. Other processes of the router, and other routers that share the store of keys, are heard of once a second: each gives out
a part of a key's limits by itself until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from typing_extensions import override

from capamesh.protocol.errors import TooManyRequests
from capamesh.router.access.keys import Key
from capamesh.router.access.months import HOUR_S, SURE, month_of, part_of_rows, seconds_left
from capamesh.router.access.rate_parts import MOST_DEBT_S, next_part, pace
from capamesh.router.access.usage_batch import Amount, Usage, UsageRow

MOST_PENDING: Final = 10_000
"""The most rows of usage that wait to be written (guess: 1 MB): when the file is out of reach for long, what a tenant uses
beyond that is counted under no model's name, and then under nobody's."""
OTHERS: Final = "(others)"
"""The name that usage is counted under where there is no room for its own."""


class Tally:
    """Counts an amount up."""

    __slots__ = ("bytes", "requests", "rows")

    def __init__(self) -> None:
        self.requests = 0
        self.rows = 0
        self.bytes = 0

    @property
    def amount(self) -> Amount:
        """Return what was counted."""
        return Amount(self.requests, self.rows, self.bytes)

    def add(self, rows: int, size_bytes: int) -> None:
        """Count one request."""
        self.requests += 1
        self.rows += rows
        self.bytes += size_bytes

    def take_off(self, amount: Amount) -> None:
        """Count an amount down."""
        self.requests -= amount.requests
        self.rows -= amount.rows
        self.bytes -= amount.bytes


class Bucket:
    """A bucket that gets `rate` a second, up to what a second gives; of several that share the rate each gets a part.

    Of a router's `parts`, its workers, each saves up an equal part and never more: all together hold what one would.
    """

    __slots__ = ("_at_s", "_level", "_limit", "_most", "_part", "_rate", "_shared", "_whole")

    def __init__(self, rate: float, now_s: float, parts: int = 1) -> None:
        self._limit = rate
        self._part = self._rate = rate / parts
        self._whole = self._shared = max(1.0, rate)
        self._most = self._level = max(1.0, rate / parts)
        self._at_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return the seconds until so much may be taken; 0: now."""
        level, most = self._level, self._most
        past_s = now_s - self._at_s
        if past_s > 0.0:
            level += past_s * self._rate
            level = min(level, most)
            self._level = level
        self._at_s = now_s
        amount = min(amount, most)
        return 0.0 if level >= amount else (amount - level) / self._rate

    def take(self, amount: float) -> None:
        """Take so much, which may leave a debt; less than 0: give it back."""
        self._level -= amount

    def reckon(
        self, used: float, away: float, past_s: float, others: int, now_s: float, *, is_sure: bool
    ) -> None:
        """Take in what all have used in the last `past_s` seconds, and how much of it `away` from here, by `others`.

        All reckon the level of the one bucket that they are parts of: below 0 each slows down by as much of its part. While it is
        not `is_sure` how many others there are, no part is raised.
        """
        self.wait_s(0.0, now_s)  # what it got by the part of before
        most = self._whole
        shared = min(self._shared + self._limit * past_s - used, most)
        self._shared = shared = most if others == 0 else max(shared, -MOST_DEBT_S * most)
        if others == 0 or past_s > 0.0:
            used_per_s = away / past_s if others else 0.0
            is_kept = shared < 0.0 or not is_sure
            self._part = next_part(self._part, self._limit, used_per_s, others, is_kept)
        self._rate = self._part * pace(shared / most)
        self._level = min(self._level, max(shared, 1.0))


class KeyUse:
    """The use of one key at this process, and of all together as far as it is known."""

    __slots__ = (
        "buckets",
        "heard",
        "in_flight",
        "key",
        "most_rows",
        "processes",
        "reserved_rows",
        "sharers",
        "total",
        "unwritten",
    )

    def __init__(self, key: Key, total: Amount, now_s: float, processes: int) -> None:
        self.key = key
        self.processes = processes
        """The processes of this router."""
        self.sharers = sharers = processes
        """The processes that share what is limited, this one included."""
        self.buckets: tuple[Bucket | None, Bucket | None, Bucket | None] = _buckets(
            key, now_s, processes
        )
        """The buckets of requests, rows and bytes; None: not limited."""
        self.in_flight = 0
        self.reserved_rows = 0
        """The rows of requests that are under way."""
        self.total = total
        """The amount of this month that the store has."""
        self.unwritten = Tally()
        """The amount that the store has not yet."""
        self.heard = 0
        """The times that it was heard of the others since the key was not used."""
        self.most_rows = part_of_rows(key.scope.rows_per_month, total.rows, sharers, self.heard)
        """The most rows of a month that are used here before it is heard of the others again."""

    def begin_month(self) -> None:
        """Count in a new month, of which nothing is used."""
        self.total, self.unwritten, self.heard = _NOTHING, Tally(), 0
        self.most_rows = part_of_rows(self.key.scope.rows_per_month, 0, self.sharers, 0)

    def renew(self, key: Key, now_s: float) -> None:
        """Go on with the key as it was read anew."""
        if key.scope != self.key.scope:
            self.buckets = _buckets(key, now_s, self.processes)
        self.key = key

    def take(self, rows: int, size_bytes: int) -> None:
        """Take one request out of the buckets."""
        of_requests, of_rows, of_bytes = self.buckets
        if of_requests is not None:
            of_requests.take(1)
        if of_rows is not None:
            of_rows.take(rows)
        if of_bytes is not None:
            of_bytes.take(size_bytes)

    def give_back(self, rows: int, size_bytes: int) -> None:
        """Take back one request that was let in."""
        self.in_flight -= 1
        self.reserved_rows -= rows
        for bucket, amount in zip(self.buckets, (1, rows, size_bytes), strict=True):
            if bucket is not None:
                bucket.take(-amount)

    def reckon(self, total: Amount, own: Amount, past_s: float, others: int, now_s: float) -> None:
        """Take over the amount of this month, which this process has added its `own` to in the last `past_s` seconds."""
        used = total.less(self.total)
        elsewhere = used.less(own)
        self.unwritten.take_off(own)
        self.total = total
        self.sharers = others + 1
        self.heard = self.heard + 1 if own.requests or self.unwritten.requests else 0
        is_sure = self.processes == 1 or self.heard >= SURE
        if not is_sure:
            others = max(others, self.processes - 1)
        for bucket, of_all, of_others in zip(self.buckets, used, elsewhere, strict=True):
            if bucket is not None:
                bucket.reckon(of_all, of_others, past_s, others, now_s, is_sure=is_sure)
        most, used_rows = self.key.scope.rows_per_month, total.rows
        self.most_rows = part_of_rows(most, used_rows, self.sharers, self.heard)


class Lease:
    """The leave of one request to be under way with its key. `settle` it when it has ended, whichever way."""

    __slots__ = ("_model", "_quotas", "_rows", "_size_bytes", "_use")

    def __init__(self, quotas: Quotas, use: KeyUse, model: str, rows: int, size_bytes: int) -> None:
        self._quotas: Quotas | None = quotas
        self._use = use
        self._model = model
        self._rows = rows
        self._size_bytes = size_bytes

    def settle(self, answer_bytes: int | None = None, used_rows: int | None = None) -> None:
        """Give it back; `answer_bytes` are those of its answer, None: it was not answered. Counts once.

        `used_rows` are those that it came to, where that is known only now; None: those that it was let in with.
        """
        quotas, self._quotas = self._quotas, None
        if quotas is not None:
            quotas.settle(
                self._use, self._model, self._rows, self._size_bytes, answer_bytes, used_rows
            )

    def give_back(self) -> None:
        """Give it back as if it had never been taken: its request begins anew, with a lease of its own."""
        quotas, self._quotas = self._quotas, None
        if quotas is not None:
            self._use.give_back(self._rows, self._size_bytes)


class Quotas:
    """The limits of all keys at one process of a router, which is one of `processes` that share keys until it hears how many use one."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._uses: dict[str, KeyUse] = {}
        self._month = ""
        self._hour = 0
        self._rows: dict[tuple[int, str, str], Tally] = {}
        """The usage that is not written yet, by hour, tenant and model."""
        self._written: Mapping[str, Amount] = {}
        """The amounts of this month by key, as the file has them."""
        self._heard_s = -1.0
        """The time when it was last heard of other processes; below 0: it never was."""
        self.over: dict[str, int] = {}
        """The number of requests that were refused, by limit."""

    @override
    def __repr__(self) -> str:
        return f"Quotas({len(self._uses)} keys, {len(self._rows)} rows to write)"

    def tick(self, wall_s: float, keys: Iterable[Key]) -> None:
        """Count in the hour and month of `wall_s`, seconds since 1970, from now on, and forget keys that are not there."""
        month = month_of(wall_s)
        self._hour = int(wall_s) // HOUR_S
        if month != self._month:
            self._month = month
            self._written = {}
            for use in self._uses.values():
                use.begin_month()
        current = {key.id: key for key in keys}
        self._uses = {
            key_id: use
            for key_id, use in self._uses.items()
            if use.in_flight or use.unwritten.requests or current.get(key_id) == use.key
        }

    def admit(self, key: Key, model: str, rows: int, size_bytes: int, now_s: float) -> Lease:
        """Let a request in, or raise `TooManyRequests` with the time after which to come again."""
        use = self._uses.get(key.id)
        if use is None:
            total = self._written.get(key.id, _NOTHING)
            use = self._uses[key.id] = KeyUse(key, total, now_s, self._processes)
        elif use.key is not key:
            use.renew(key, now_s)
        scope = use.key.scope
        if scope.concurrency or scope.rows_per_month:
            self._check_counts(use, rows)
        of_requests, of_rows, of_bytes = use.buckets
        # in place, one after the other: each request with a key comes by here
        if of_requests is not None and (wait_s := of_requests.wait_s(1, now_s)) > 0.0:
            raise self._too_many("requests", scope.requests_per_s, wait_s)
        if of_rows is not None and (wait_s := of_rows.wait_s(rows, now_s)) > 0.0:
            raise self._too_many("rows", scope.rows_per_s, wait_s)
        if of_bytes is not None and (wait_s := of_bytes.wait_s(size_bytes, now_s)) > 0.0:
            raise self._too_many("bytes", scope.bytes_per_s, wait_s)
        use.take(rows, size_bytes)
        use.in_flight += 1
        use.reserved_rows += rows
        return Lease(self, use, model, rows, size_bytes)

    def settle(
        self,
        use: KeyUse,
        model: str,
        rows: int,
        size_bytes: int,
        answer_bytes: int | None,
        used_rows: int | None,
    ) -> None:
        """Count a request that has ended; a lease calls this once."""
        use.in_flight -= 1
        use.reserved_rows -= rows
        if answer_bytes is None:
            return
        if used_rows is not None:
            of_rows = use.buckets[1]
            if of_rows is not None:
                of_rows.take(used_rows - rows)
            rows = used_rows
        bucket = use.buckets[2]
        if bucket is not None:
            bucket.take(answer_bytes)
        size_bytes += answer_bytes
        use.unwritten.add(rows, size_bytes)
        place = (self._hour, use.key.tenant, model)
        tally = self._rows.get(place)
        if tally is None:
            tally = self._tally_of(place)
        tally.add(rows, size_bytes)

    def _tally_of(self, place: tuple[int, str, str]) -> Tally:
        """Return where usage is counted that was not there: in its own place while there is room for one."""
        hour, tenant, _ = place
        if len(self._rows) >= MOST_PENDING:
            place = (hour, tenant, OTHERS)
            if place not in self._rows:
                place = (hour, OTHERS, OTHERS)
        return self._rows.setdefault(place, Tally())

    def unwritten(self) -> Usage:
        """Return what is to be written."""
        keys = {
            key_id: use.unwritten.amount
            for key_id, use in self._uses.items()
            if use.unwritten.requests
        }
        rows = {UsageRow(*place): tally.amount for place, tally in self._rows.items()}
        return Usage(self._month, rows, keys)

    def written(
        self, usage: Usage, totals: Mapping[str, Amount], others: Mapping[str, int], now_s: float
    ) -> None:
        """Take what was written off, and take over the totals of the month by key, all processes' together.

        `others` is the number of other processes that have used a key of late, by key; `now_s` never goes back.
        """
        past_s = now_s - self._heard_s if self._heard_s >= 0.0 else 0.0
        self._heard_s = now_s
        for row, amount in usage.rows.items():
            self._rows[row].take_off(amount)
        self._rows = {row: tally for row, tally in self._rows.items() if tally.requests}
        if usage.month != self._month:
            return
        self._written = totals
        for key_id, use in self._uses.items():
            own = usage.keys.get(key_id, _NOTHING)
            total = totals.get(key_id, _NOTHING)
            use.reckon(total, own, past_s, others.get(key_id, 0), now_s)

    def _count_over(self, limit: str) -> None:
        self.over[limit] = self.over.get(limit, 0) + 1

    def _check_counts(self, use: KeyUse, rows: int) -> None:
        """Raise `TooManyRequests` for a request over the concurrency or the rows of a month."""
        scope = use.key.scope
        if scope.concurrency:
            most = -(-scope.concurrency // use.sharers)
            if use.in_flight >= most:
                self._count_over("concurrency")
                raise TooManyRequests(
                    f"{use.in_flight} requests of the key are under way, and {most} may be"
                    f"{'' if use.sharers == 1 else ' in this process of the router'}; send it again when one has ended",
                    1.0,
                )
        if scope.rows_per_month:
            own = use.unwritten.rows + use.reserved_rows
            used = use.total.rows + own
            if used + rows > scope.rows_per_month:
                self._count_over("rows_per_month")
                raise TooManyRequests(
                    f"the key has used {used} of its {scope.rows_per_month} rows of {self._month}, and the request has"
                    f" {rows}; ask the router's operator for more, or wait for the next month",
                    seconds_left(self._hour),
                )
            if own and own + rows > use.most_rows:
                self._count_over("rows_per_month")
                raise TooManyRequests(
                    f"the key is near its {scope.rows_per_month} rows of {self._month}, and other routers may use it, too; send"
                    " it again in 1 s",
                    1.0,
                )

    def _too_many(self, what: str, rate: float, wait_s: float) -> TooManyRequests:
        """Count and return the error of a request over a rate."""
        self._count_over(what)
        return TooManyRequests(
            f"the key may send {rate:g} {what} a second, and has; send it again in {wait_s:.2f} s",
            wait_s,
        )


_NOTHING: Final = Amount()


def _buckets(
    key: Key, now_s: float, processes: int
) -> tuple[Bucket | None, Bucket | None, Bucket | None]:
    scope = key.scope
    return (
        _bucket(scope.requests_per_s, now_s, processes),
        _bucket(scope.rows_per_s, now_s, processes),
        _bucket(scope.bytes_per_s, now_s, processes),
    )


def _bucket(rate: float, now_s: float, processes: int) -> Bucket | None:
    return Bucket(rate, now_s, processes) if rate else None
