"""The alerts, judged by Prometheus' own tool: each fires where it should, and is silent where it should be."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "observability"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus"
)


def run(*arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_alerts_fire_where_they_should_and_nowhere_else(tmp_path: Path) -> None:
    for file in (FOLDER / "alerts.yml", HERE / "alerts.test.yml"):
        shutil.copy(file, tmp_path)
    run("test", "rules", "alerts.test.yml", folder=tmp_path)


@needs_promtool
@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.compose.yml"])
def test_prometheus_takes_its_configuration(name: str) -> None:
    run("check", "config", name, folder=FOLDER)


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    alerts = re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text())
    cases = (HERE / "alerts.test.yml").read_text()
    fired = re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", cases)
    assert alerts
    assert set(fired) == set(alerts)
