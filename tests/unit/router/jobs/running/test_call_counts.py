"""Each end of a call counts as one outcome."""

from __future__ import annotations

from collections import Counter

from capamesh.router.jobs.running.call_counts import OUTCOMES, CallCounts
from capamesh.router.jobs.running.verdict import Verdict


def test_calls_count_by_what_came_of_them() -> None:
    counts = CallCounts()
    assert counts.values() == dict.fromkeys(OUTCOMES, 0)
    expected: Counter[str] = Counter()
    for verdict, outcome in (
        (Verdict.ANSWERED, "ok"),
        (Verdict.FULL, "refused"),
        (Verdict.AGAIN, "retried"),
        (Verdict.UNSENT, "retried"),
        (Verdict.DIED, "retried"),
        (Verdict.FAILED, "failed"),
        (Verdict.REFUSED, "failed"),
        (Verdict.NOBODY, "failed"),
        (Verdict.OVER_QUOTA, "failed"),
    ):
        counts.count(verdict)
        expected[outcome] += 1
        assert dict(counts.values()) == {each: expected[each] for each in OUTCOMES}
    assert expected.total() == len(Verdict)
