"""The comparison with other routers, as quick as it goes, beside one that is installed on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 240
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
PEER = next((name for name in ("nginx", "haproxy") if shutil.which(name, path=PATH)), "")


@pytest.mark.skipif(not PEER, reason="neither nginx nor HAProxy is installed")
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_comparison_measures_capamesh_beside_another_router(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        (sys.executable, str(ROOT / "benchmarks" / "peers.py"), "--quick", "--json", str(file),
         "--connections", "2", "--only", "direct", "capamesh", PEER),
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert figures["not_measured"] == {}
    assert figures["routers"][PEER]["version"][0].isdigit()
    rows = {(row["request"], row["router"]): row for row in figures["rows"]}
    assert set(rows) == {
        (request, router)
        for request in ("1 KiB", "600 KB")
        for router in ("direct", "capamesh", PEER)
    }
    assert all(row["per_second"] > 0 and row["failed"] == 0 for row in rows.values())
    assert all(("cpu_us" in row) is (router != "direct") for (_, router), row in rows.items())
    assert all("capamesh_cpu_ratio" in rows[request, PEER] for request in ("1 KiB", "600 KB"))
