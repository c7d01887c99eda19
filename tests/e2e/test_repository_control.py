"""Models that are loaded and unloaded on real nodes, by Triton's own clients."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from capamesh.cli.local_cluster import LocalCluster
from capamesh.router.access.operator_key import KEY_FILE

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LIMIT_S = 120.0


@pytest.mark.smoke
async def test_models_are_unloaded_and_loaded_on_as_many_nodes_as_asked_for(
    built_models: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(built_models / "digits", models / "digits")
    async with LocalCluster(
        tmp_path / "cluster", models, nodes=2, node_options=("--control",)
    ) as cluster:
        await cluster.wait_routable(2, models=["digits"])
        address = cluster.http_url.removeprefix("http://")
        key = (tmp_path / "cluster" / "router" / KEY_FILE).read_text().strip()
        await asyncio.to_thread(by_http, address, {"Authorization": f"Bearer {key}"})
        await asyncio.to_thread(by_grpc, address, {"authorization": f"Bearer {key}"})


def until(is_so: Callable[[], bool]) -> None:
    """Return once something is so: the router answers two seconds after the change, if the nodes have not told of it before."""
    end_s = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def by_http(address: str, headers: dict[str, str]) -> None:
    rows = triton_http.InferInput("X", [1, 64], "FP32")
    rows.set_data_from_numpy(np.zeros((1, 64), np.float32))
    with triton_http.InferenceServerClient(address) as client:
        client.unload_model("digits", headers=headers)
        until(lambda: client.get_model_repository_index()[0]["state"] == "UNAVAILABLE")
        with pytest.raises(InferenceServerException, match="unloaded on request"):
            client.infer("digits", [rows])
        client.load_model("digits", headers=headers)
        until(lambda: client.is_model_ready("digits"))
        client.infer("digits", [rows])


def by_grpc(address: str, headers: dict[str, str]) -> None:
    with triton_grpc.InferenceServerClient(address) as client:
        client.unload_model("digits", headers=headers)
        until(lambda: not client.is_model_ready("digits"))
        client.load_model("digits", headers=headers)
        until(lambda: client.is_model_ready("digits"))
