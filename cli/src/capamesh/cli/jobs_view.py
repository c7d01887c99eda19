"""The texts in which jobs are shown on a terminal: rows of a table, facts, a line that says how far one is. Pure."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from capamesh.client import BadRow, JobEvent, JobInfo, JobPromise

COLUMNS: Final = ("JOB", "MODEL", "STATE", "DONE", "BAD", "ROWS/S", "SUBMITTED", "ENDS")
BAD_COLUMNS: Final = ("BAD ROW", "ID", "ERROR", "WHY")


def when(moment_s: float | None) -> str:
    """Return the day and minute of a time in seconds since 1970, "-" where there is none."""
    if moment_s is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(moment_s, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "-"


def span(seconds: float) -> str:
    """Return how long something takes as people say it: `45 s`, `12 min`, `3.5 h`, `4.0 d`."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def price_of(info: JobInfo) -> str:
    """Return what a job's rows cost, as people say it, "-" where nodes tell no price."""
    if not info.price or info.price_per_million is None:
        return "-"
    until = "in all" if info.is_ended else "so far"
    return f"{info.price_per_million:.4g} a million {paid_in(info)}, {info.price:.4g} {until}"


def paid_in(info: JobInfo) -> str:
    """Return what a job is paid by: rows, or tokens where its lines are chats or prompts."""
    source, output = _table(info.spec.get("input")), _table(info.spec.get("output"))
    if source.get("format") != "batch":
        return "rows"
    return "rows or tokens" if output.get("format") == "batch" else "tokens"


def pace_of(info: JobInfo) -> str:
    """Return the rows a second of a job: of one that takes seconds for a row with two digits; "-": nobody knows."""
    pace = info.rows_per_s
    if pace is None:
        return "-"
    return f"{pace:,.0f}" if pace >= 10 or pace <= 0 else f"{pace:.2g}"


def part_done(info: JobInfo) -> float:
    """Return which part of a job is done, from 0 to 1."""
    done = info.done.rows + info.done.bad_rows
    return min(1.0, done / info.rows) if info.rows else 0.0


def row_of(info: JobInfo) -> tuple[str, ...]:
    """Return the cells of a job in a table of `COLUMNS`."""
    ends = info.ended_at if info.is_ended else info.ends_at
    return (
        info.id,
        info.model,
        info.state,
        f"{part_done(info):.0%} of {info.rows:,}" if info.rows else "-",
        f"{info.done.bad_rows:,}",
        "-" if info.is_ended else pace_of(info),
        when(info.created_at),
        when(ends),
    )


def facts_of(info: JobInfo) -> dict[str, object]:
    """Return all that is known of a job, by what it is called."""
    source: dict[str, Any] = _table(info.spec.get("input"))
    output: dict[str, Any] = _table(info.spec.get("output"))
    spec = info.spec
    columns: dict[str, Any] = _table(source.get("columns"))
    deadline = spec.get("deadline_s")
    facts: dict[str, object] = {
        "job": info.id,
        "state": f"{info.state}: {info.reason}" if info.reason else info.state,
        "model": f"{info.model} {info.version}".strip(),
        "digest": info.digest,
        "tenant": info.tenant,
        "submitted": when(info.created_at),
        "ended" if info.is_ended else "ends": when(
            info.ended_at if info.is_ended else info.ends_at
        ),
        "rows": f"{info.done.rows:,} of {info.rows:,} ({part_done(info):.0%})",
        "bad rows": f"{info.done.bad_rows:,}",
        "shards": f"{info.done.shards:,} of {info.shards:,}, {info.done.leased_shards:,} at work",
        "rows/s": pace_of(info),
        "nodes": "-" if info.nodes is None else info.nodes,
        **({"tokens": f"{info.paid_rows:,}"} if paid_in(info) == "tokens" else {}),
        "price": price_of(info),
        "input": f"{source.get('url', '-')} ({source.get('format', '-')})",
        "columns": [f"{name} = {_joined(given)}" for name, given in columns.items()],
        "results": f"{output.get('url') or 'at the router'} ({output.get('format', 'jsonl')})",
        "deadline": when(deadline) if isinstance(deadline, int | float) else "none",
    }
    if info.is_ended:
        for name in ("rows/s", "nodes"):
            del facts[name]
    return facts


def standing(info: JobInfo, now_s: float) -> str:
    """Return in one line how far a job is; `now_s` is the time in seconds since 1970."""
    parts = [info.state, f"{info.done.rows + info.done.bad_rows:,} of {info.rows:,} rows"]
    if not info.rows:
        parts = [info.state]
    if not info.is_ended and info.rows_per_s is not None:
        parts.append(f"{pace_of(info)} rows/s")
    if not info.is_ended and info.nodes:
        parts.append(f"{info.nodes} node{'' if info.nodes == 1 else 's'}")
    if info.paid_rows and paid_in(info) == "tokens":
        parts.append(f"{info.paid_rows:,} tokens")
    if info.done.bad_rows:
        parts.append(f"{info.done.bad_rows:,} bad")
    if not info.is_ended and info.ends_at is not None:
        parts.append(f"{span(info.ends_at - now_s)} left")
    if not info.is_ended and info.rows_per_s is not None:
        parts.append(f"price {price_of(info)}")
    if info.reason:
        parts.append(info.reason)
    return ", ".join(parts)


NOT_RUN: Final = "none were run: by other jobs of late, or by what nodes say"


def promise_of(promise: JobPromise) -> str:
    """Return what a router promises of a job that was not submitted, as a sentence."""
    rows = "an unknown number of rows" if promise.rows is None else f"some {promise.rows:,} rows"
    if promise.left_s is None:
        return f"{rows}; the router cannot say when it would end: nothing is idle, or nothing was measured yet"
    measured = promise.fields.get("measured_rows")
    how = f"{measured:,} of them were run" if isinstance(measured, int) and measured else NOT_RUN
    return f"{rows}; it would end in {span(promise.left_s)}, at {when(promise.ends_at)} ({how})"


def event_line(event: JobEvent) -> str:
    """Return what happened, in one line."""
    at = datetime.fromtimestamp(min(max(event.at, 0.0), 2.5e11), UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}  {event.kind:<10}  {event.text}".rstrip()


def bad_row_cells(row: BadRow) -> tuple[str, ...]:
    """Return the cells of a bad row in a table."""
    return (f"{row.row:,}", row.id, row.code, row.message)


def bad_row_line(row: BadRow) -> str:
    """Return a bad row in one line."""
    return f"row {row.row} ({row.id})  {row.code}  {row.message}"


def end_sentence(info: JobInfo) -> str:
    """Return how a job has ended, as a sentence."""
    lasted = ""
    if info.ended_at is not None and info.created_at is not None:
        lasted = f" after {span(info.ended_at - info.created_at)}"
    bad = f", {info.done.bad_rows:,} bad" if info.done.bad_rows else ""
    why = f": {info.reason}" if info.reason else ""
    return f"job {info.id} is {info.state}{lasted}, {info.done.rows:,} rows{bad}{why}"


def next_commands(info: JobInfo) -> str:
    """Return the commands that come next, in lines."""
    if info.state == "paused":
        return f"Next: capamesh jobs resume {info.id}"
    if not info.is_ended:
        return f"Next: capamesh jobs watch {info.id}   until it has ended"
    lines = [f"Next: capamesh jobs results {info.id} -o results.jsonl"] if info.done.rows else []
    if info.done.bad_rows:
        lines.append(f"Then: capamesh jobs logs {info.id} --bad-rows   why rows have no result")
    elif info.state != "completed":
        lines.append(f"Then: capamesh jobs logs {info.id}   what has happened")
    return "\n".join(lines)


def json_of(info: JobInfo) -> dict[str, object]:
    """Return a job as JSON has it."""
    return dataclasses.asdict(info)


def _table(value: object) -> dict[str, Any]:
    """Return an object of JSON; empty where it is something else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _joined(given: object) -> str:
    return (
        ", ".join(map(str, cast("list[object]", given))) if isinstance(given, list) else str(given)
    )
