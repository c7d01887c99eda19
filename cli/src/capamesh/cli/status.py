"""Shows how the member in a data folder is. Reads files, prints."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import typer

from capamesh.cli.printing import amount, print_fields, print_json, print_table, time_text
from capamesh.protocol.data_dir import read_status
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.member_status import READY, age_s, believable, verdict


def show_status(folder: Path, role: str, *, as_json: bool) -> None:
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
        print_fields({**shown, "state": _state_text(found.state, status)})
        _print_workers(tables["workers"])
        _print_models(tables["models"])
    if found.exit_status != READY:
        raise typer.Exit(found.exit_status)


def _state_text(state: str, status: dict[str, Any]) -> str:
    was = status.get("state")
    return state if state == was else f"{state} (it last said: {was})"


def _print_workers(workers: list[dict[str, Any]]) -> None:
    if not workers:
        return
    print()
    print_table(
        ("WORKER", "DEVICE", "PID", "STARTS", "SANDBOX", "LOST LAST BECAUSE"),
        [
            (
                worker["device"],
                worker["name"],
                worker.get("pid") or "down",
                worker["starts"],
                worker.get("sandbox") or "-",
                worker["last_down"] or "-",
            )
            for worker in workers
        ],
    )


def _print_models(models: list[dict[str, Any]]) -> None:
    if not models:
        return
    print()
    print_table(
        (
            "MODEL", "WORKER", "STATE", "IN FLIGHT", "REQUESTS", "ROWS", "ROWS/RUN",
            "QUEUED p50/p99", "RUN p50/p99", "MEMORY",
        ),
        [_model_row(model) for model in models],
    )  # fmt: skip


def _model_row(model: dict[str, Any]) -> tuple[object, ...]:
    reason = model.get("reason", "")
    requests: dict[str, int] = model.get("requests", {})
    failed = sum(count for code, count in requests.items() if code != "ok")
    batches = model.get("batches", 0)
    return (
        f"{model['name']}/{model['version']}".removesuffix("/"),
        model["device"],
        model["state"] + (f": {reason}" if reason else ""),
        f"{model['requests_in_flight']} of {model['limit']}" if model.get("limit") else "-",
        f"{sum(requests.values())}" + (f" ({failed} failed)" if failed else ""),
        model.get("rows", "-"),
        f"{model['rows'] / batches:.1f}" if batches else "-",
        _times(model.get("queue_s", {})),
        _times(model.get("run_s", {})),
        amount(model["memory_bytes"]) if model.get("memory_bytes") else "-",
    )


def _times(quantiles: dict[str, float | None]) -> str:
    return " / ".join(time_text(quantiles.get(key)) for key in ("p50", "p99"))
