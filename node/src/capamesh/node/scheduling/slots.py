"""Decides how many batches of how many rows may run at once, and how long what waits takes to get there. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from capamesh.node.scheduling.service_time import ServiceTime

if TYPE_CHECKING:
    from capamesh.node.scheduling.in_flight import RequestsInFlight
    from capamesh.node.scheduling.service_profile import ServiceProfile
    from capamesh.node.scheduling.single_thread_instances import Streams

SHED_MARGIN_RUNS: Final = 2.0
"""The runs of a row that decide on lateness: where more waits than fits into the next batch, what has less time left than so
many of them is late: its own, and as much again for the rows beside it, the scatter and the way back. Served by deadline, all
of a queue that is too long are just at this edge (measured: at twice the load 0.80 of what nodes can do is answered in time
without such a rule, 0.88 with one run, 0.98 with two: the simulator's overload-2x)."""
MIN_RETRY_S: Final = 0.001
"""A refused caller is never told to come back at once (guess)."""


ONLINE_S: Final = 1.0
"""Seconds after the last request of people's for which bulk runs are short: the next may come while one goes on (guess)."""
BULK_TIMES: Final = 1.25
"""A run takes at most so many times as long with its bulk rows as without them, or, of bulk rows alone, as one row does: that is what a
job adds to the wait of those who come while it runs, and of those who are in it (benchmarks/bulk_node.py has what others cost)."""
JOIN_PART: Final = 0.5
"""Bulk rows are in the run of people's rows only if that takes at most such a part of what a run of their own takes (measured there:
where each row takes its time, they make the longest waits longer and gain nothing)."""
SHORT_BULK_S: Final = 0.000_5
"""Bulk rows that take no longer are run at once in any case (guess: half of the way to the node and back)."""


class Slots:
    """The places where the batches of one model run: on all threads, or as streams beside one another."""

    __slots__ = (
        "_instances",
        "_max_delay_s",
        "_requests",
        "_streams",
        "has_background",
        "most",
        "online_s",
        "recent_peak",
        "time",
        "time_of_streams",
    )

    def __init__(
        self,
        requests: RequestsInFlight,
        profile: ServiceProfile | None,
        streams: Streams | None,
        *,
        instances: int,
        max_delay_s: float,
    ) -> None:
        """`max_delay_s` is the longest wait for company."""
        self.has_background = False
        """True if bulk requests run behind all others, on what these leave of the device, and never in a slot of theirs."""
        self._requests = requests
        self._streams = streams
        self._instances = instances
        self._max_delay_s = max_delay_s
        self.time = ServiceTime(profile)
        """The times of runs on all threads."""
        self.time_of_streams = ServiceTime(streams.profile if streams else None)
        self.most = streams.count if streams is not None else instances
        """The number of batches that may run at the same time."""
        self.online_s = -math.inf
        """The time when the last request came that people wait for."""
        self.recent_peak = 0
        """The requests that were live of late: at the last batch taken, or half of what it was there before."""

    def full_batch_s(self) -> float:
        """Return how long a full batch would take now where many wait."""
        if self._streams is not None:
            return self.time_of_streams.predicted_s(self.most_stream_rows)
        return self.time.predicted_s(self._requests.plan.batch_rows)

    def is_streaming(self) -> bool:
        """Return whether the next batch is one of several runs beside one another.

        Those that run decide. When none does, it is what waits, and what was in flight of late: of many callers
        that ask again once answered the first is back before the others are.
        """
        streams = self._streams
        if streams is None:
            return False
        for batch in self._requests.running:
            return batch.is_stream
        if self._requests.background:
            return True  # threads that share a run would get these cores one after the other, and wait (measured: 3 times as long)
        queue = self._requests.queue
        waiting = queue.online if self.has_background else len(queue)
        return max(waiting, self.recent_peak) >= streams.count

    def took(self) -> None:
        """Remember how many requests were live when a batch was taken; those of the background need no slot."""
        requests = self._requests
        live = len(requests.live) - (requests.bulk if self.has_background else 0)
        self.recent_peak = max(live, self.recent_peak // 2)

    def count_and_rows(self, *, is_stream: bool) -> tuple[int, int]:
        """Return how many batches may run at once, and how many rows one may have."""
        if self._streams is None or not is_stream:
            return self._instances, self._requests.plan.batch_rows
        return self._streams.count, self.most_stream_rows

    def room(self, slots: int, rows: int, *, is_stream: bool, is_ahead: bool = False) -> int:
        """Return how many rows the next batch may have, by `count_and_rows`; 0: none may be taken."""
        queue = self._requests.queue
        waiting = queue.rows - queue.bulk_rows if self.has_background else queue.rows
        free = slots - len(self._requests.running)
        if is_ahead:
            # behind a run of all threads those of one each come next, if so much waits
            may_follow = self._streams is None or is_stream
            return rows if free == 0 and waiting >= rows and may_follow else 0
        if free <= 0:
            return 0
        # an equal share for each, and room for what has no rows
        return min(rows, max(1, -(-waiting // free))) if is_stream else rows

    def bulk_bound(
        self, rows: int, now_s: float, *, is_stream: bool
    ) -> Callable[[int], int] | None:
        """Return what tells how many bulk rows a run of up to `rows` may have beside so many rows of people; None: any.

        Whoever comes while it runs waits for its end, and whoever is in it for its other rows. Of bulk rows alone it has 1 at least.
        """
        if self.has_background:
            return _none_beside
        if not self._requests.queue.online and now_s - self.online_s >= ONLINE_S:
            return None
        time = self.time_of_streams if is_stream else self.time

        def most_bulk(online_rows: int) -> int:
            people_s = time.predicted_s(max(1, online_rows))
            most_s = BULK_TIMES * people_s
            least = 0 if online_rows else 1
            bulk = max(least, rows - online_rows)
            while bulk > least:
                run_s = time.predicted_s(online_rows + bulk)
                is_gain = not online_rows or run_s - people_s <= JOIN_PART * time.predicted_s(bulk)
                if run_s <= SHORT_BULK_S or (run_s <= most_s and is_gain):
                    break
                bulk //= 2
            return bulk

        return most_bulk

    def ripe_s(self) -> float:
        """Return when what is queued goes as it is: after the longest wait for company, and in time for all deadlines."""
        if not self._requests.queue:
            return math.inf
        run_s = self.time.predicted_s(
            min(self._requests.queue.rows, self._requests.plan.batch_rows)
        )
        return min(
            min(
                request.arrived_s + self._max_delay_s,
                math.inf
                if request.deadline_s is None
                else request.deadline_s - SHED_MARGIN_RUNS * run_s,
            )
            for request in self._requests.queue
        )

    def starting_rows(self) -> int:
        """Return how many that are not running yet do not wait either."""
        slots, rows = self.count_and_rows(is_stream=self._streams is not None)
        return max(0, slots - len(self._requests.running)) * rows

    def wait_s(self) -> float:
        """Return how long one that comes now and is not bulk would wait for its turn, as estimated.

        What waits and is bulk lets it pass, but for its share; a bulk run that has begun does not.
        """
        queue = self._requests.queue
        rows = queue.rows - queue.bulk_rows
        is_stream = self.is_streaming()
        slots = self.most if is_stream else self._instances
        is_busy = len(self._requests.running) >= slots
        if not is_busy and rows == 0:
            return 0.0
        time = self.time_of_streams if is_stream else self.time
        if self._requests.plan.is_batching:
            full = self.most_stream_rows if is_stream else self._requests.plan.batch_rows
            batches = -(-rows // full)
            each_s = time.predicted_s(min(rows, full))
        else:
            batches = queue.online
            each_s = time.predicted_s(-(-rows // batches) if batches else 1)
        running_s = each_s
        if self._requests.bulk:
            for batch in self._requests.running:
                running_s = max(running_s, time.predicted_s(batch.rows))
        # those that run are half through, on average
        return (batches * each_s + (0.5 * running_s if is_busy else 0)) / slots

    def retry_s(self) -> float:
        """Return when one that is refused now may be accepted: half a run ends the next, on average."""
        return max(self.wait_s(), 0.5 * self.time.predicted_s(1), MIN_RETRY_S)

    @property
    def most_stream_rows(self) -> int:
        """The rows of one run of one thread at most; 0: there are none."""
        streams = self._streams
        if streams is None:
            return 0
        return streams.rows if self._requests.plan.is_batching else 1


def _none_beside(_online_rows: int) -> int:
    """Return how many bulk rows run in the slots of people's requests where there is a background."""
    return 0
