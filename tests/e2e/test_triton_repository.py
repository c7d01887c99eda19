"""A folder as Triton users have it, served by real processes to Triton's own client, unmodified."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import tritonclient.http as triton
from clusters import nodes_at
from triton_models import (
    EXAMPLES,
    file_start,
    write_examples,
    write_implicit,
    write_texts,
    zero_start,
)
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from capamesh.cli.local_cluster import LocalCluster
from capamesh.node.runtime.onnxruntime import backend as onnx_backend

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
BROKEN = "broken"
READY = (*EXAMPLES, "filed", "zero", "both", "texts")
ENSEMBLE = """
name: "both" platform: "ensemble" max_batch_size: 8
input { name: "A" data_type: TYPE_INT32 dims: [ 16 ] }
input { name: "B" data_type: TYPE_INT32 dims: [ 16 ] }
output { name: "SUM" data_type: TYPE_INT32 dims: [ 16 ] }
ensemble_scheduling { step {
  model_name: "simple" model_version: -1
  input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "B" }
  output_map { key: "OUTPUT0" value: "SUM" }
} }
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    """A router and one node with Triton's examples, models with states, and one that is refused."""
    folder = tmp_path_factory.mktemp("triton")
    models = folder / "models"
    models.mkdir()
    write_examples(models)
    write_implicit(models, "zero", zero_start())
    write_implicit(models, "filed", file_start(models, "filed", 100))
    write_texts(models, "texts")
    write_implicit(models, BROKEN)
    (models / BROKEN / "config.pbtxt").write_text("max_batch_sise: 8")
    (models / "both" / "1").mkdir(parents=True)
    (models / "both" / "config.pbtxt").write_text(ENSEMBLE)
    async with LocalCluster(
        folder / "cluster", models, nodes=1, node_options=("--threads", "1")
    ) as running:
        await running.wait_routable(1, READY)
        yield running


def client(cluster: LocalCluster) -> Any:
    return triton.InferenceServerClient(cluster.http_url.removeprefix("http://"))


def tensor(name: str, array: Any) -> Any:
    given = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array)
    return given


def number(value: int) -> Any:
    return np.array([[value]], np.int32)


async def test_models_with_one_request_each_answer_right(cluster: LocalCluster) -> None:
    a, b = np.arange(32, dtype=np.int32).reshape(2, 16), np.ones((2, 16), np.int32)

    def asked() -> None:
        with client(cluster) as server:
            answer = server.infer("both", [tensor("A", a), tensor("B", b)])
            np.testing.assert_array_equal(answer.as_numpy("SUM"), a + 1)
            (picture,) = server.get_model_metadata("densenet_onnx")["inputs"]
            assert picture["shape"] == [3, 224, 224]
            given = [tensor(picture["name"], np.ones((3, 224, 224), np.float32))]
            assert server.infer("densenet_onnx", given).as_numpy("fc6_1").shape == (1000,)
            if onnx_backend._raw_text_runtime() is not None:  # else ONNX Runtime takes UTF-8 alone
                odd = np.array([[b"\xff\xfe\x00\x80", b"a\x00b", b"", b"\x00"]], object)
                answer = server.infer("texts", [tensor("INPUT0", odd)])
                assert answer.as_numpy("OUTPUT0").tolist() == odd.tolist()

    await asyncio.to_thread(asked)


def sent(
    cluster: LocalCluster, model: str, values: list[int], key: int | str, *, is_ending: bool = True
) -> list[int]:
    """Return the answers to a sequence of requests."""
    answers: list[int] = []
    with client(cluster) as server:
        for at, value in enumerate(values):
            answer = server.infer(
                model,
                [tensor("INPUT", number(value))],
                sequence_id=key,
                sequence_start=at == 0,
                sequence_end=is_ending and at == len(values) - 1,
            )
            answers.append(answer.as_numpy("OUTPUT").item())
    return answers


async def test_two_sequences_at_once_have_their_own_controls_and_states(
    cluster: LocalCluster,
) -> None:
    async def asked(model: str, values: list[int], key: int | str) -> list[int]:
        return await asyncio.to_thread(sent, cluster, model, values, key)

    answers = await asyncio.gather(
        asked("simple_sequence", [11, 7, 5, 3, 2, 0, 1], 1007),
        asked("simple_dyna_sequence", [11, 7, 5], 1008),
        asked("zero", [1, 2, 3], 1009),
        asked("zero", [10, 20, 30], "a text"),
        asked("filed", [1, 2, 3], 1009),
    )
    assert answers == [
        [12, 7, 5, 3, 2, 0, 1],
        [12, 7, 1013],
        [1, 3, 6],
        [10, 30, 60],
        [101, 103, 106],
    ]


async def test_refused_model_is_shown_as_failed_with_its_reason_wherever_models_are_listed(
    cluster: LocalCluster,
) -> None:
    def index() -> list[dict[str, str]]:
        with client(cluster) as server:
            found: list[dict[str, str]] = server.get_model_repository_index()
            return found

    (entry,) = [one for one in await asyncio.to_thread(index) if one["name"] == BROKEN]
    assert (entry["version"], entry["state"]) == ("1", "UNAVAILABLE")
    assert "line 1: unknown field 'max_batch_sise'" in entry["reason"]
    with pytest.raises(InferenceServerException) as caught:
        await asyncio.to_thread(sent, cluster, BROKEN, [1], 1)
    assert caught.value.status() == "503"
    assert "unknown field 'max_batch_sise'" in str(caught.value)
    (node,) = (await nodes_at(cluster.http_url)).values()
    for models in (node["models"], cluster.nodes[0].status()["models"]):
        (model,) = [one for one in models if one["name"] == BROKEN]
        assert (model["state"], model["reason"]) == ("failed", entry["reason"])
