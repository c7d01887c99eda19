"""The programs that the check of speed runs: commits that are unpacked, and the hot path of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_modules import FOLDER, load

check = load("speed_check")


def test_base_without_a_hot_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(check.CannotRun, match="not-a-commit"):
        check.unpack("not-a-commit", tmp_path)


def test_run_that_fails_is_told_with_its_errors(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "hot_path.py").write_text("raise SystemExit('no such router')")
    with pytest.raises(check.CannotRun, match="no such router"):
        check.run(tmp_path, "json", 1)


def test_run_of_other_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    said = json.dumps({"cpu_s": 1.0, "code": "/somewhere/else"})
    (tmp_path / "benchmarks" / "hot_path.py").write_text(f"print({said!r})")
    with pytest.raises(check.CannotRun, match="/somewhere/else"):
        check.run(tmp_path, "json", 1)


@pytest.mark.parametrize("kind", ["json", "binary", "large"])
def test_hot_path_answers_each_kind_of_request(kind: str) -> None:
    done = subprocess.run(
        (sys.executable, str(FOLDER / "hot_path.py"), kind, "20"),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["cpu_s"] > 0
    assert Path(said["code"]).name == "router"
