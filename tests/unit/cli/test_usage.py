"""`capamesh usage`: what was used in a month, by tenant and model."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from capamesh.cli.__main__ import run
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.key_store import KeyStore
from capamesh.router.access.keys import Scope
from capamesh.router.access.usage_batch import Amount, Usage, UsageBatch, UsageRow


def hour_of(*moment: int) -> int:
    return int(dt.datetime(*moment, tzinfo=dt.UTC).timestamp()) // 3600  # type: ignore[misc,arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = KeyStore(DatabaseLocation(tmp_path / "keys.db"))
    store.create("lab", Scope(), 0.0)
    rows = {
        UsageRow(hour_of(2026, 10, 31, 23), "lab", "m"): Amount(100, 100, 100),
        UsageRow(hour_of(2026, 11, 1, 0), "lab", "m"): Amount(1, 2, 3),
        UsageRow(hour_of(2026, 11, 30, 23), "lab", "m"): Amount(10, 20, 2048),
        UsageRow(hour_of(2026, 11, 30, 23), "shop", "n"): Amount(1000, 1000, 0),
        UsageRow(hour_of(2026, 12, 1, 0), "lab", "m"): Amount(100, 100, 100),
    }
    store.write(UsageBatch(Usage("2026-12", rows, {})))
    return tmp_path


def test_month_is_summed_by_tenant_and_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["usage", "--month", "2026-11", "--data", str(folder)]
    assert run([*line, "--json"]) == 0
    lab = {"month": "2026-11", "tenant": "lab", "model": "m"}
    assert json.loads(capsys.readouterr().out) == [
        {**lab, "requests": 11, "rows": 22, "bytes": 2051},
        {
            "month": "2026-11",
            "tenant": "shop",
            "model": "n",
            "requests": 1000,
            "rows": 1000,
            "bytes": 0,
        },
    ]
    assert run(line) == 0
    head, *rows = (each.split() for each in capsys.readouterr().out.splitlines())
    assert head == ["TENANT", "MODEL", "REQUESTS", "ROWS", "TENSORS"]
    assert rows == [["lab", "m", "11", "22", "2", "KiB"], ["shop", "n", "1,000", "1,000", "0", "B"]]


def test_hours_of_one_tenant(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["usage", "--month", "2026-11", "--tenant", "lab", "--hourly", "--data", str(folder)]
    assert run([*line, "--json"]) == 0
    assert [(row["hour"], row["rows"]) for row in json.loads(capsys.readouterr().out)] == [
        ("2026-11-01T00:00:00+00:00", 2),
        ("2026-11-30T23:00:00+00:00", 20),
    ]
    assert run(line) == 0
    assert "2026-11-30 23:00" in capsys.readouterr().out


@pytest.mark.parametrize("month", ["2026-13", "November", "2026-1", "0000-01", "2026-11-01"])
def test_text_that_is_no_month_is_told(month: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["usage", "--month", month, "--data", "."]) == 2
    assert "is no month" in capsys.readouterr().err


def test_month_of_a_router_without_keys_is_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["usage", "--json", "--data", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []
