from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from capamesh.cli.local_cluster import LocalCluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXPECTED = {"classify_digits.py": "it is a 7\n"}


def test_every_example_has_its_expected_output() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("example", sorted(EXPECTED))
async def test_example_runs_and_prints_what_it_promises(
    cluster: LocalCluster, example: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / example),
        env={"CAPAMESH_ROUTER": cluster.http_url, "PATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, out.decode()) == (0, EXPECTED[example]), err.decode()
