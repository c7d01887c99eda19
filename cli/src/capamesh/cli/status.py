"""Shows how the member in a data folder is. Reads files, prints."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Final

import typer

from capamesh.cli.compact_table import Column
from capamesh.cli.printing import (
    amount,
    print_compact,
    print_json,
    print_values,
    print_wide,
    time_text,
)
from capamesh.cli.short_text import short_reason
from capamesh.protocol.data_dir import read_status
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.member_status import READY, age_s, believable, verdict

WORKER_COLUMNS: Final = (
    Column("WORKER"),
    Column("DEVICE", least=8),
    Column("PID"),
    Column("STARTS"),
    Column("LOST LAST BECAUSE", least=17),
    Column("SANDBOX", is_optional=True),
)
ROUTER_WORKER_COLUMNS: Final = (
    Column("WORKER"),
    Column("STATE", least=8),
    Column("PID"),
    Column("STARTS"),
    Column("LOST LAST BECAUSE", least=17),
    Column("LINKS AT", is_optional=True),
)
MODEL_COLUMNS: Final = (
    Column("MODEL", least=14, is_name=True),
    Column("STATE"),
    Column("IN FLIGHT"),
    Column("REQUESTS", least=8),
    Column("ROWS/RUN"),
    Column("RUN p50/p99"),
    Column("QUEUED p50/p99", is_optional=True),
    Column("MEMORY", is_optional=True),
    Column("WORKER", is_optional=True),
    Column("ROWS", is_optional=True),
)


def show_status(folder: Path, role: str, *, is_wide: bool, as_json: bool) -> None:
    """Print a member's status; exit as `member_status` says unless it is running and ready."""
    status = read_status(folder)
    if status.get("role") != role:
        raise ConfigError(
            f"{folder} is the home of a {status.get('role')}: ask capamesh {status.get('role')} status"
        )
    now = dt.datetime.now(dt.UTC)
    found = verdict(status, now)
    reported = {"state": found.state, "reason": found.reason}
    told_s = age_s(status, now)
    believed = believable(status, found)
    if as_json:
        print_json(
            {
                **believed,
                **reported,
                "age_s": None if told_s is None else round(told_s, 1),
                "last_state": status.get("state"),
                "is_ready": found.exit_status == READY,
            }
        )
    else:
        tables = {key: believed.pop(key, []) for key in ("workers", "models")}
        told = {} if told_s is None else {"age": f"{told_s:.1f} s"}
        shown = {"name": "", **believed, **reported, **told}
        print_values({**shown, "state": _state_text(found.state, status)})
        _print_workers(tables["workers"], is_wide=is_wide)
        _print_models(tables["models"], is_wide=is_wide)
    if found.exit_status != READY:
        raise typer.Exit(found.exit_status)


def _state_text(state: str, status: dict[str, Any]) -> str:
    was = status.get("state")
    return state if state == was else f"{state} (it last said: {was})"


def _print_workers(workers: list[dict[str, Any]], *, is_wide: bool) -> None:
    if not workers:
        return
    print()
    if "device" not in workers[0]:
        _print_router_workers(workers, is_wide=is_wide)
        return
    rows = [
        (
            worker["device"],
            worker["name"],
            worker.get("pid") or "down",
            worker["starts"],
            (worker["last_down"] if is_wide else short_reason(worker["last_down"])) or "-",
            worker.get("sandbox") or "-",
        )
        for worker in workers
    ]
    if is_wide:
        print_wide([column.title for column in WORKER_COLUMNS], rows)
    else:
        print_compact(WORKER_COLUMNS, rows)


def _print_router_workers(workers: list[dict[str, Any]], *, is_wide: bool) -> None:
    rows = [
        (
            worker["name"],
            worker["state"],
            worker.get("pid") or "down",
            worker["starts"],
            (worker["last_down"] if is_wide else short_reason(worker["last_down"])) or "-",
            worker["link_address"] or "-",
        )
        for worker in workers
    ]
    if is_wide:
        print_wide([column.title for column in ROUTER_WORKER_COLUMNS], rows)
    else:
        print_compact(ROUTER_WORKER_COLUMNS, rows)


def _print_models(models: list[dict[str, Any]], *, is_wide: bool) -> None:
    if not models:
        return
    print()
    if is_wide:
        titles = [column.title for column in MODEL_COLUMNS]
        rows = [(*_model_row(model), model.get("reason") or "-") for model in models]
        print_wide((*titles, "REASON"), rows)
        return
    notes = [
        f"{_versioned(model)}: {short_reason(model['reason'])}"
        for model in models
        if model.get("reason")
    ]
    print_compact(MODEL_COLUMNS, [_model_row(model) for model in models], notes)


def _model_row(model: dict[str, Any]) -> tuple[object, ...]:
    requests: dict[str, int] = model.get("requests", {})
    failed = sum(count for code, count in requests.items() if code != "ok")
    batches = model.get("batches", 0)
    return (
        _versioned(model),
        model["state"],
        f"{model['requests_in_flight']} of {model['limit']}" if model.get("limit") else "-",
        f"{sum(requests.values())}" + (f" ({failed} failed)" if failed else ""),
        f"{model['rows'] / batches:.1f}" if batches else "-",
        _times(model.get("run_s", {})),
        _times(model.get("queue_s", {})),
        amount(model["memory_bytes"]) if model.get("memory_bytes") else "-",
        model["device"],
        model.get("rows", "-"),
    )


def _versioned(model: dict[str, Any]) -> str:
    return f"{model['name']}/{model['version']}".removesuffix("/")


def _times(quantiles: dict[str, float | None]) -> str:
    return " / ".join(time_text(quantiles.get(key)) for key in ("p50", "p99"))
