"""What a node promises whole: a request that is given up at the router, event loops that are measured, sequences of a real model of speech."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import engine_models
import numpy as np
import onnxruntime as ort
import pytest
import pytest_asyncio
import tritonclient.http as triton
from clusters import metrics_text
from engine_link import counted, until

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient, Client
from capamesh.protocol.errors import DeadlineExceeded, InvalidRequest

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
VAD = "silero_vad"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Return the folder of the speech detector, `cases` beside its parent; None where nobody has its package."""
    models = ROOT / "build" / "models"
    if not (models / VAD).is_dir():
        models = tmp_path_factory.mktemp("build") / "models"
        build = [sys.executable, str(ROOT / "scripts" / "build_models.py"), "--only", VAD]
        subprocess.run([*build, "--into", str(models)], check=False, timeout=120)
    return models / VAD if (models / VAD).is_dir() else None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(
    tmp_path_factory: pytest.TempPathFactory, speech: Path | None
) -> AsyncIterator[LocalCluster]:
    """A router and one node with a folder of all sorts."""
    folder = tmp_path_factory.mktemp("serving")
    models = folder / "models"
    engine_models.save(engine_models.looping(), models, "left")
    if speech is not None:
        shutil.copytree(speech, models / VAD)
    options = ("--threads", "1", "--metrics", "127.0.0.1:0")
    async with LocalCluster(folder / "cluster", models, nodes=1, node_options=options) as running:
        await running.wait_routable(1, [path.name for path in models.iterdir()])
        yield running


async def test_request_that_the_caller_gave_up_at_the_router_frees_the_node(
    serving: LocalCluster,
) -> None:
    (node,) = serving.nodes
    async with AsyncClient(serving.http_url) as client:
        with pytest.raises(DeadlineExceeded):
            await client.infer("left", {"turns": np.array([engine_models.FOREVER])}, timeout_s=0.2)
        answer = await client.infer("left", {"turns": np.array([5])})
        assert answer["done"].tolist() == [5]
    await until(lambda: counted(node, "left"), lambda seen: seen.get("in_flight") == 0)


async def test_metrics_tell_of_the_agent_s_and_the_worker_s_event_loop(
    serving: LocalCluster,
) -> None:
    (node,) = serving.nodes

    async def beats() -> list[float]:
        """Return how often both loops were measured."""
        lines = [
            line.rpartition(" ")
            for line in (await metrics_text(node.status()["metrics"])).splitlines()
        ]
        values = {name: float(value) for name, _, value in lines if not name.startswith("#")}
        return [
            values.get(f"capamesh_event_loop_{measure}_seconds_count{{{of}}}", 0.0)
            for measure in ("delay", "busy")
            for of in ('device="",process="agent"', 'device="0",process="worker"')
        ]

    await until(beats, lambda counts: min(counts) > 0)


class Listener:
    """The speech detector in this process, one window after the other."""

    def __init__(self, model: Path) -> None:
        self._session = ort.InferenceSession(
            model / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )

    def probabilities(self, windows: Any, rate_hz: Any) -> list[float]:
        """Return the probability of speech of each of float32 [N, 576], starting with no memory."""
        state = np.zeros((2, 1, 128), np.float32)
        found: list[float] = []
        for window in windows:
            feed = {"input": window[None], "state": state, "sr": rate_hz}
            score, state = self._session.run(["output", "stateN"], feed)
            found.append(score.item())
        return found


def heard_by_the_network(
    cluster: LocalCluster, sequence_id: int | str, windows: Any, rate_hz: Any
) -> list[float]:
    """Return the same as `Listener.probabilities`, asked for window by window with Triton's own client."""
    rate = triton.InferInput("sr", [], "INT64")
    rate.set_data_from_numpy(rate_hz)
    found: list[float] = []
    with triton.InferenceServerClient(cluster.http_url.removeprefix("http://")) as client:
        for number, window in enumerate(windows):
            samples = triton.InferInput("input", [1, len(window)], "FP32")
            samples.set_data_from_numpy(window[None])
            result = client.infer(
                VAD,
                [samples, rate],
                sequence_id=sequence_id,
                sequence_start=number == 0,
                sequence_end=number == len(windows) - 1,
            )
            found.append(result.as_numpy("output").item())
    return found


def recording_of(speech: Path | None) -> tuple[Path, Any, Any]:
    """Return the model's folder, the windows of its recording and the samples a second."""
    if speech is None:
        pytest.skip(f"{VAD} is optional: pip install --no-deps -r requirements/models.txt")
    cases: Any = np.load(speech.parents[1] / "cases" / f"{VAD}.npz")
    return speech, cases["rows"], cases["rate_hz"]


async def test_sequence_of_the_sdk_starts_goes_on_and_ends_by_itself(
    serving: LocalCluster, speech: Path | None
) -> None:
    model, windows, rate_hz = recording_of(speech)
    expected = Listener(model).probabilities(windows[:20], rate_hz)
    steps = [{"input": window[None], "sr": rate_hz} for window in windows[:20]]

    def heard() -> list[float]:
        with Client(serving.http_url) as client, client.sequence(VAD, outputs=["output"]) as told:
            return [outputs["output"].item() for outputs in told.infer_each(steps)]

    np.testing.assert_allclose(await asyncio.to_thread(heard), expected, rtol=1e-5)
    async with AsyncClient(serving.http_url) as client:
        listening = client.sequence(VAD)
        found = [outputs["output"].item() async for outputs in listening.infer_each(steps)]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        # the last step has ended it at its node, which knows nothing of it any more
        with pytest.raises(InvalidRequest, match="has not started here, has ended"):
            await client.infer(VAD, steps[0], parameters={"sequence_id": listening.id})


async def test_several_who_are_heard_at_once_do_not_disturb_each_other(
    serving: LocalCluster, speech: Path | None
) -> None:
    model, windows, rate_hz = recording_of(speech)
    listener = Listener(model)
    parts = {f"caller {start}": windows[start : start + 100] for start in range(0, 200, 50)}
    heard = await asyncio.gather(
        *(
            asyncio.to_thread(heard_by_the_network, serving, caller, part, rate_hz)
            for caller, part in parts.items()
        )
    )
    for got, part in zip(heard, parts.values(), strict=True):
        np.testing.assert_allclose(got, listener.probabilities(part, rate_hz), rtol=1e-3)
