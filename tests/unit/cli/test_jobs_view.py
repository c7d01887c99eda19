"""The texts of jobs: how long, how far, and what a router's words may not do to a terminal."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from capamesh.cli.jobs_view import (
    end_sentence,
    event_line,
    facts_of,
    next_commands,
    pace_of,
    promise_of,
    row_of,
    span,
    standing,
    when,
)
from capamesh.client import JobEvent, JobInfo, JobProgress, JobPromise


def job(state: str = "running", **more: Any) -> JobInfo:
    return JobInfo("job-1", "digits", "1", state, **more)


def test_spans_and_paces_are_said_as_people_do() -> None:
    spans = {89.4: "89 s", 90: "2 min", 5399: "90 min", 5400: "1.5 h", 172_800: "2.0 d"}
    assert {seconds: span(seconds) for seconds in spans} == spans
    paces = {None: "-", 0.0: "0", 9.94: "9.9", 12.3: "12"}
    assert {pace: pace_of(job(rows_per_s=pace)) for pace in paces} == paces
    assert (when(None), when(1e300), when(0.0)) == ("-", "-", "1970-01-01 00:00 UTC")
    assert promise_of(JobPromise(None, None, None, {})) == (
        "an unknown number of rows; the router cannot say when it would end: nothing is idle, or nothing was measured yet"
    )


def test_standing_tells_what_is_known() -> None:
    assert standing(job("planning"), 0.0) == "planning"
    blocked = job("blocked", reason="no node has the model", rows=1000, done=JobProgress(1, 10, 2))
    assert standing(blocked, 0.0) == "blocked, 12 of 1,000 rows, 2 bad, no node has the model"
    running = job(rows=1000, rows_per_s=1234.5, nodes=1, ends_at=130.0)
    said = "running, 0 of 1,000 rows, 1,234 rows/s, 1 node, 30 s left"
    assert standing(running, 100.0) == f"{said}, price -"


def test_chats_are_paid_for_by_tokens_and_told_at_their_pace() -> None:
    spec = {"input": {"format": "batch"}, "output": {"format": "jsonl"}}
    priced = {"price_per_million": 1.5, "paid_rows": 600}
    chats = job(rows=10, rows_per_s=0.234, price=0.0009, spec=spec, **priced)
    said = "600 tokens, price 1.5 a million tokens, 0.0009 so far"
    assert standing(chats, 0.0) == f"running, 0 of 10 rows, 0.23 rows/s, {said}"
    facts = facts_of(chats)
    assert (facts["rows/s"], facts["tokens"], row_of(chats)[5]) == ("0.23", "600", "0.23")
    facts = facts_of(job(price=1.0, spec={**spec, "output": {"format": "batch"}}, **priced))
    assert "1.5 a million rows or tokens" in str(facts["price"])
    assert "tokens" not in facts


def test_end_tells_how_long_it_took_and_what_comes_next() -> None:
    failed = job("failed", reason="too many bad rows", created_at=0.0, ended_at=120.0)
    assert end_sentence(failed) == "job job-1 is failed after 2 min, 0 rows: too many bad rows"
    assert next_commands(failed) == "Then: capamesh jobs logs job-1   what has happened"
    assert next_commands(job("paused")) == "Next: capamesh jobs resume job-1"
    assert next_commands(job("blocked")).startswith("Next: capamesh jobs watch job-1")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(["input", "output", "deadline_s"]), VALUES, max_size=3),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_job_with_any_spec_and_event_of_any_time_are_shown(spec: dict[str, Any], at: float) -> None:
    assert event_line(JobEvent(1, at, "kind", "text")).endswith("kind        text")
    info = job(spec=spec)
    assert facts_of(info)["job"] == "job-1"
    assert len(row_of(info)) == 8
