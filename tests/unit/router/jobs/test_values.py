"""Ids and texts of jobs."""

from __future__ import annotations

from capamesh.router.jobs.values import MAX_TEXT_CHARS, new_job_id, short


def test_later_jobs_have_greater_ids() -> None:
    earlier = new_job_id(1_800_000_000.0, lambda bits: 2**bits - 1)
    later = new_job_id(1_800_000_000.001, lambda _bits: 0)
    assert earlier < later < new_job_id(1_900_000_000.0, lambda _bits: 0)
    assert len(earlier) == len(later) == 26


def test_long_text_is_kept_short() -> None:
    assert short("x" * MAX_TEXT_CHARS) == "x" * MAX_TEXT_CHARS
    assert short("x" * (MAX_TEXT_CHARS + 1)) == "x" * (MAX_TEXT_CHARS - 1) + "…"
