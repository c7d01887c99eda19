"""The page on live sound works as it is written, and a node that is killed is told of in the stream."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio
from engine_link import counted, until
from page_steps import ROOT, environment, steps

from capamesh.cli.local_cluster import LocalCluster
from capamesh.cli.member import Member
from capamesh.client import AsyncClient
from capamesh.protocol.errors import CapameshError, DeadlineExceeded

pytestmark = pytest.mark.asyncio(loop_scope="module")
PAGE = "docs/how-to/live-audio.md"
ROUTER = "http://127.0.0.1:8000"
VAD = "silero_vad"
SPEECH = ROOT / "build/cases/silero_vad.npz"
TELL_S = 120.0
"""Far more than a cut link takes to be told of; it only ends a test that hangs."""


def manifest() -> str:
    """Return the manifest that the model is built with: the folder of built models may be older."""
    found = re.search(
        r'^SILERO_MANIFEST = """\n(.*?)"""',
        (ROOT / "scripts/build_models.py").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert found is not None
    return found[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    """A router and two nodes with the speech detector."""
    source = ROOT / "build/models" / VAD
    if not (source / "1/model.onnx").is_file() or not SPEECH.is_file():
        pytest.skip("build/models has no silero_vad: make build/models, with its package installed")
    folder = tmp_path_factory.mktemp("live")
    models = folder / "models"
    shutil.copytree(source, models / VAD, ignore=shutil.ignore_patterns("capamesh.toml"))
    (models / VAD / "capamesh.toml").write_text(manifest())
    async with LocalCluster(
        folder / "cluster",
        models,
        nodes=2,
        node_options=("--threads", "1", "--metrics", "127.0.0.1:0"),
    ) as running:
        await running.wait_routable(2, [VAD])
        yield running


async def test_page_works_as_it_is_written(network: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build/cases").symlink_to(SPEECH.parent)
    environ = environment(tmp_path, tmp_path, network.http_url)
    printed: list[str] = []
    for language, step in steps(PAGE):
        text = step.replace(ROUTER, network.http_url)
        program = (
            (sys.executable, "-c", text)
            if language == "python"
            else ("bash", "-eu", "-o", "pipefail", "-c", text)
        )
        process = await asyncio.create_subprocess_exec(
            *program,
            cwd=tmp_path,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 120)
        assert (step, process.returncode) == (step, 0), err.decode()
        printed.append(out.decode())
    _, windows, last, silence, speech = printed
    with np.load(SPEECH) as cases:
        expected = cases["expected"].reshape(-1)
    shown = [float(line.split()[-1]) for line in windows.splitlines()]
    np.testing.assert_allclose(shown, expected, atol=2e-3)  # the recording has 16 bits
    assert windows.startswith("    0.000 s  output ")
    said = json.loads(last)
    assert (said["window"], said["outputs"][0]["name"]) == (len(expected) - 1, "output")
    assert silence.split()[0] == "0.992"
    assert float(silence.split()[-1]) < 0.1
    first = int(np.argmax(expected > 0.5))
    assert speech == f"speech at {first * 0.032:.3f} s\n"


async def test_node_that_is_killed_is_told_and_the_other_goes_on(network: LocalCluster) -> None:
    with np.load(SPEECH) as cases:
        sound = cases["rows"][:, 64:]
    before = await answered_by_each(network)
    errors: list[CapameshError] = []
    is_killed = False
    answered = 0

    async def those_that_answered() -> list[Member]:
        pairs = zip(network.nodes, before, strict=True)
        return [node for node, was in pairs if await answered_by(node) > was]

    async def kill() -> None:
        """Kill the node that has run the windows."""
        nonlocal is_killed
        (node, *_) = await until(those_that_answered, bool)
        is_killed = True
        for pid in (node.status()["pid"], *node.status()["worker_pids"]):
            os.kill(pid, signal.SIGKILL)

    async def windows() -> AsyncIterator[npt.NDArray[np.float32]]:
        """Send windows until some are answered by the second node."""
        at = 0
        while answered < 40:
            yield sound[at % len(sound)]
            at += 1
            if answered >= 20 and not is_killed:
                await kill()

    async with AsyncClient(network.http_url) as client, asyncio.timeout(TELL_S):
        async for _ in client.stream_samples(VAD, windows(), on_error=errors.append):
            answered += 1
    assert answered >= 40
    (error,) = errors
    assert not isinstance(error, DeadlineExceeded)  # what has died is told of at once


async def answered_by_each(network: LocalCluster) -> list[float]:
    """Return how many windows each node has run, once they tell of all that the router has had answers to: they do so later."""
    url = f"{network.http_url}/v2/models/{VAD}/stats"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        stats = (await response.json())["model_stats"]
    answered = sum(each["inference_stats"]["success"]["count"] for each in stats)

    async def counts() -> list[float]:
        return [await answered_by(node) for node in network.nodes]

    return await until(counts, lambda found: sum(found) >= answered)


async def answered_by(node: Member) -> float:
    """Return how many windows a node has run, as it last said."""
    return (await counted(node, VAD)).get("requests ok", 0.0)
