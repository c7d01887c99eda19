"""The requests that wait for one model, the most urgent first, in groups that may share a batch. Pure.

Order: lower priority number, then earlier deadline, then earlier arrival. Bulk work has an order of its
own: while online work waits beside it, it gets its share of the rows; alone, all of them (start-time fair
queueing, Goyal, Vin and Cheng 1996).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from typing_extensions import override

from capamesh.node.scheduling.pending_request import QUEUED, PendingRequest

BULK_SHARE: Final = 0.1
"""The share of the rows while online work waits (precedent: Netflix's 90 % live, 10 % batch partitions)."""
STALE_ENTRIES: Final = 64
"""Entries of dropped work that are borne before a heap is built anew (guess: a page of pointers)."""

_BULK_RANK: Final = 256
"""The rank of bulk work, beyond all priorities."""
DELAY: Final = 0.5
"""The number that is added to the priority of a request that has waited too long: behind all of its own, before the next."""

_Entry = tuple[float, float, int, PendingRequest]


class _Class:
    """The online or the bulk half: a heap for each group."""

    __slots__ = ("count", "entries", "heaps", "passed", "share")

    def __init__(self, share: float) -> None:
        self.heaps: dict[Hashable, list[_Entry]] = {}
        self.count = 0
        self.entries = 0
        self.passed = 0.0
        """Rows taken, divided by the share: whoever has less goes first."""
        self.share = share

    def push(self, request: PendingRequest) -> None:
        heap = self.heaps.get(request.key)
        if heap is None:
            heap = self.heaps[request.key] = []
        heappush(heap, (request.priority, request.urgency_s, request.order, request))
        self.count += 1
        self.entries += 1

    def head(self, key: Hashable) -> PendingRequest | None:
        """Return the most urgent work of a group."""
        heap = self.heaps.get(key)
        if heap is None:
            return None
        while heap:
            request = heap[0][3]
            if request.state is QUEUED:
                return request
            heappop(heap)
            self.entries -= 1
        del self.heaps[key]
        return None

    def first(self) -> PendingRequest | None:
        """Return the most urgent work of all groups."""
        if len(self.heaps) == 1:
            (key,) = self.heaps
            return self.head(key)
        heads = [request for key in list(self.heaps) if (request := self.head(key)) is not None]
        return min(heads, key=_urgency, default=None)

    def pop(self, key: Hashable) -> None:
        """Remove what `head` has just returned."""
        heap = self.heaps[key]
        heappop(heap)
        if not heap:
            del self.heaps[key]
        self.count -= 1
        self.entries -= 1

    def delay(self, late: Collection[PendingRequest]) -> None:
        """Put `late`, which are queued here, behind all others of their priority."""
        for key in {request.key for request in late}:
            heap = self.heaps[key]
            for at, (priority, urgency_s, order, request) in enumerate(heap):
                if request in late and request.state is QUEUED:
                    request.priority = priority + DELAY
                    heap[at] = (request.priority, urgency_s, order, request)
            heapify(heap)

    def dropped(self) -> None:
        """One queued work is not wanted any more; its entry goes when it is met, or in time."""
        self.count -= 1
        if self.entries > 2 * self.count + STALE_ENTRIES:
            self.entries = 0
            for key, heap in list(self.heaps.items()):
                kept = [entry for entry in heap if entry[3].state is QUEUED]
                heapify(kept)
                self.entries += len(kept)
                if kept:
                    self.heaps[key] = kept
                else:
                    del self.heaps[key]


class RequestQueue:
    """Requests of one model that have not started."""

    def __init__(self, bulk_share: float = BULK_SHARE) -> None:
        self._online = _Class(1.0 - bulk_share)
        self._bulk = _Class(bulk_share)
        self._orders = 0
        self._passed = 0.0
        """The rows that the class that went last had passed before it: where one that was idle joins in."""
        self._lowest = -1.0
        """No work that waits and may give way has a rank beyond this one."""
        self._lesser: list[PendingRequest] = []
        """The requests that waited when it was made, the last to be served last; many do not wait any more."""
        self._unlisted = -1.0
        """No work that may give way and has come since `_lesser` was made has a rank beyond this one."""
        self.rows = 0
        """The rows of all that waits."""
        self.bulk_rows = 0
        """The rows of what waits and is bulk."""

    def __len__(self) -> int:
        return self._online.count + self._bulk.count

    def __iter__(self) -> Iterator[PendingRequest]:
        """Iterate over all that waits, in no order."""
        for half in (self._online, self._bulk):
            for heap in half.heaps.values():
                for *_, request in heap:
                    if request.state is QUEUED:
                        yield request

    @property
    def online(self) -> int:
        """The number of requests that wait and are not bulk."""
        return self._online.count

    @property
    def bulk(self) -> int:
        """The number of requests that wait and are bulk."""
        return self._bulk.count

    @override
    def __repr__(self) -> str:
        return (
            f"RequestQueue({self._online.count} online, {self._bulk.count} bulk, {self.rows} rows)"
        )

    def put(self, request: PendingRequest) -> None:
        """Queue `request`."""
        mine = self._bulk if request.is_bulk else self._online
        if mine.count == 0:
            mine.passed = max(mine.passed, self._passed)  # what was not used while idle is not owed
            self._lesser.clear()
        rank = request.priority + _BULK_RANK if request.is_bulk else request.priority
        if rank > self._unlisted and request.sequence is None and not request.steps:
            self._unlisted = rank
            self._lowest = max(self._lowest, rank)
        if (
            request.parts is None or request.parts.is_first
        ):  # one that has begun goes on before others begin
            self._orders += 1
            request.order = self._orders
        request.state = QUEUED
        mine.push(request)
        self.rows += request.rows
        if request.is_bulk:
            self.bulk_rows += request.rows

    def in_order(self) -> list[PendingRequest]:
        """Return all that waits, the most urgent first and bulk work last."""
        return sorted(self, key=_last_served)

    def lesser_than(
        self, request: PendingRequest, enough: Callable[[PendingRequest], bool]
    ) -> list[PendingRequest]:
        """Return works that wait and must give way for `request`, the last to be served first; none if too few do.

        Only what is of a lower priority gives way, or is bulk work where `request` is not, and no request of a sequence
        or between two steps: its state is at this node alone. `enough` is told of each in turn and returns whether no more are needed.
        """
        rank = _rank(request)
        found: list[PendingRequest] = []
        is_fresh = False
        while rank < self._lowest:
            lesser = self._lesser
            while lesser and lesser[-1].state is not QUEUED:
                lesser.pop()
            if lesser and (last := _rank(lesser[-1])) > rank and last >= self._unlisted:
                found.append(lesser.pop())
                if enough(found[-1]):
                    return found
            elif is_fresh:
                break
            else:  # others may have come since
                is_fresh = True
                self._list_lesser(found)
        self._lesser.extend(reversed(found))
        return []

    def _list_lesser(self, found: list[PendingRequest]) -> None:
        """List anew who may have to give way, but for those that were found already."""
        taken = set(found)
        may_leave = [one for one in self if one.sequence is None and not one.steps]
        self._lowest = float(max(map(_rank, may_leave), default=-1))
        self._unlisted = -1.0
        self._lesser = sorted((one for one in may_leave if one not in taken), key=_last_served)

    def delay(self, late: Collection[PendingRequest]) -> None:
        """Put `late`, which are queued and have waited too long, behind all others of their priority."""
        for half in (self._online, self._bulk):
            own = {request for request in late if (half is self._bulk) == request.is_bulk}
            if own:
                half.delay(own)

    def drop(self, request: PendingRequest) -> None:
        """Forget `request`, which is queued and has just been marked as ended."""
        self.rows -= request.rows
        if request.is_bulk:
            self.bulk_rows -= request.rows
        (self._bulk if request.is_bulk else self._online).dropped()

    def take(
        self, max_rows: int, most_bulk: Callable[[int], int] | None = None
    ) -> list[PendingRequest]:
        """Remove and return the next batch: works of one key, at most `max_rows` unless a single one has more.

        Room that the class in turn leaves is given to the other. `most_bulk` returns how many rows of it may be bulk beside so many
        that are not; only a single work that cannot be run in parts has more. None: any.
        """
        online = self._online
        if (  # what waits is online, of one key and wanted, and fits
            not self._bulk.count
            and len(online.heaps) == 1
            and online.entries == online.count
            and (self.rows <= max_rows or online.count == 1)
        ):
            return self._take_all()
        chosen = self._next_class()
        if chosen is self._bulk and most_bulk is not None and not most_bulk(0):
            chosen = online  # it has the batch to itself
        first = chosen.first() if chosen is not None else None
        if chosen is None or first is None:
            return []
        self._passed = chosen.passed
        requests: list[PendingRequest] = []
        bulk = self._bulk
        is_bulk = chosen is bulk
        most = max_rows
        if is_bulk and most_bulk is not None:
            most = min(most_bulk(0), max_rows)
        rows = self._fill(chosen, first.key, requests, 0, most)
        other = online if is_bulk else bulk
        if rows < max_rows and other.count:
            most = max_rows
            if other is bulk and most_bulk is not None:
                most = min(rows + most_bulk(rows), max_rows)
            if rows < most:
                self._fill(other, first.key, requests, rows, most)
        return requests

    def take_bulk(self, max_rows: int) -> list[PendingRequest]:
        """Remove and return a batch of bulk works of one key, at most `max_rows` unless a single one has more."""
        first = self._bulk.first()
        requests: list[PendingRequest] = []
        if first is not None:
            self._fill(self._bulk, first.key, requests, 0, max_rows)
        return requests

    def _take_all(self) -> list[PendingRequest]:
        """Return all that waits, which is online and of one key, in its order: what a node does that keeps up."""
        online = self._online
        ((_, heap),) = online.heaps.items()
        heap.sort()  # of those who came one after the other it is sorted already
        online.heaps.clear()
        online.count = online.entries = 0
        self._passed = online.passed
        # a run of no rows takes its time too
        online.passed += (self.rows or 1) / online.share
        self.rows = 0
        return [request for *_, request in heap]

    def _fill(
        self,
        source: _Class,
        key: Hashable,
        requests: list[PendingRequest],
        rows: int,
        max_rows: int,
    ) -> int:
        before = rows
        charged = 0
        while (request := source.head(key)) is not None:
            if rows + request.rows > max_rows:
                if request.parts is not None and rows < max_rows:
                    request.parts.cut(request, max_rows - rows)
                    self.rows -= request.later_rows
                    self.bulk_rows -= request.later_rows
                elif requests:
                    break
            source.pop(key)
            requests.append(request)
            rows += request.rows
            charged += request.rows or 1  # a run of no rows takes its time too
            if rows >= max_rows:
                break
        self.rows -= rows - before
        if source is self._bulk:
            self.bulk_rows -= rows - before
        source.passed += charged / source.share
        return rows

    def _next_class(self) -> _Class | None:
        online, bulk = self._online, self._bulk
        if online.count == 0:
            return bulk if bulk.count else None
        if bulk.count and bulk.passed < online.passed:
            return bulk
        return online


def _urgency(request: PendingRequest) -> tuple[float, float, int]:
    return (request.priority, request.urgency_s, request.order)


def _rank(request: PendingRequest) -> int:
    """Return who gives way to whom: a higher rank to a lower one. Who was delayed ranks as before."""
    priority = math.floor(request.priority)
    return priority + _BULK_RANK if request.is_bulk else priority


def _last_served(request: PendingRequest) -> tuple[int, float, float, int]:
    return _rank(request), request.priority, request.urgency_s, request.order
