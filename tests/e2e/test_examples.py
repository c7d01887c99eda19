from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from capamesh.cli.local_cluster import LocalCluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXPECTED = {"classify_digits.py": "it is a 7\n"}
ELSEWHERE = {
    "pandas_frame.py": "tests/clients/test_dataframes.py",
    "ray_data.py": "tests/unit/client/test_examples.py",
    "spark_frame.py": "tests/unit/client/test_examples.py",
}
"""The examples that need a library of others, and the tests that run them."""


def test_every_example_has_its_expected_output() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == {*EXPECTED, *ELSEWHERE}
    assert all((EXAMPLES.parent / test).is_file() for test in ELSEWHERE.values())


@pytest.mark.smoke
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
