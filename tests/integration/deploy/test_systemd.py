"""The units of systemd, judged by its own tools: they are well formed, and closed in as far as is said."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "systemd"
MEMBERS = ("router", "node")
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
MOST_EXPOSED = 15
"""Tenths of a point, of 100: a service with a socket on the network has 11 at least, one without any settings 96."""


def unit(member: str) -> str:
    return (FOLDER / f"capamesh-{member}.service").read_text()


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def analyze(*arguments: str) -> str:
    done = subprocess.run(
        [str(ANALYZE), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a folder with the units, whose program is one that is on this machine."""
    for member in MEMBERS:
        text = unit(member)
        assert text.count("ExecStart=/opt/capamesh/bin/capamesh ") == 1
        text = text.replace("ExecStart=/opt/capamesh/bin/capamesh ", "ExecStart=/bin/sh ")
        (tmp_path / f"capamesh-{member}.service").write_text(text)
    drop_in = tmp_path / "capamesh-node.service.d" / "gpu.conf"
    drop_in.parent.mkdir()
    shutil.copy(FOLDER / "gpu.conf", drop_in)
    return tmp_path


@needs_systemd
@pytest.mark.parametrize("member", MEMBERS)
def test_unit_has_nothing_that_systemd_complains_of_and_is_closed_in(
    installed: Path, member: str
) -> None:
    file = f"capamesh-{member}.service"
    said = analyze("verify", "--man=no", str(installed / file))
    assert [line for line in said.splitlines() if "capamesh" in line] == []
    analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", str(FOLDER / file))


@pytest.mark.parametrize("member", MEMBERS)
def test_unit_sets_variables_that_the_command_has_and_waits_for_longer_than_its_member_does(
    member: str, variables: dict[str, dict[str, object]]
) -> None:
    names = {line.partition("=")[0] for line in values(unit(member), "Environment")}
    assert len(names) > 3
    assert names - variables[member].keys() == set()
    (limit,) = values(unit(member), "TimeoutStopSec")
    assert float(limit) > float(str(variables[member]["CAPAMESH_DRAIN"]))


def test_workers_may_close_themselves_in_and_see_what_the_machine_has() -> None:
    text = unit("node")
    assert "@sandbox" in values(text, "SystemCallFilter")[0]
    assert "ProcSubset" not in text
    assert not any("@resources" in value for value in values(text, "SystemCallFilter")[1:])
