"""Starts the servers that are compared, each with its natural request. IO: virtual environments, processes, HTTP.

A server is a function that gives an async context: it starts the server with one model, waits until it
answers, and stops it. What it yields says how to ask and how to read an answer.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import environments
import numpy as np
from processes import START_LIMIT_S, free_port, running

from capamesh.cli.local_cluster import LocalCluster
from capamesh.protocol.oip import HEADER_LENGTH_NAME, decode_response, encode_request
from capamesh.protocol.tensors import Tensor

HERE = Path(__file__).parent / "anchors"
BUILD = Path(__file__).resolve().parents[1] / "build" / "anchors"
THREADS = 2
"""The threads of one run: with two cores, one process of two threads was the quickest for both models."""
MAX_BATCH = 8
MAX_WAIT_S = 0.001
"""The longest wait of MLServer for a batch to fill: the least that mosec can be told too."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model, one row of input for it and what comes of that."""

    model: str
    file: Path
    inputs: Mapping[str, np.ndarray]
    """Each [1, ...]."""
    expected: np.ndarray
    """The first output, f32 [1, ...]."""
    is_spinning: bool = False
    """True if ONNX Runtime's idle threads spin in the other servers; in Capamesh they never do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """A place and a body to send there, and the way to read the answer's first output, f32 [...]."""

    url: str
    body: bytes
    header_length: int
    content_type: str
    read: Callable[[Answer], np.ndarray]

    async def ask(self) -> Answer:
        """Send the request once."""
        headers = {"Content-Type": self.content_type, HEADER_LENGTH_NAME: str(self.header_length)}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(START_LIMIT_S)) as session,
            session.post(self.url, data=self.body, headers=headers) as response,
        ):
            return Answer(response.status, dict(response.headers), await response.read())

    async def is_ready(self) -> bool:
        """Return whether the server answers with 200."""
        with suppress(aiohttp.ClientError):
            return (await self.ask()).status == 200
        return False


Server = Callable[[Case, Path], AbstractAsyncContextManager[Target]]


@asynccontextmanager
async def capamesh(case: Case, folder: Path) -> AsyncIterator[Target]:
    """A router and one node as they are by default; binary tensors of the Open Inference Protocol."""
    tensors = [Tensor.from_numpy(name, array) for name, array in case.inputs.items()]
    buffers, header_length = encode_request(tensors)
    models = case.file.parents[2]
    async with LocalCluster(folder / "cluster", models, nodes=1) as cluster:
        await cluster.wait_routable(1, models=[case.model])
        yield Target(
            f"{cluster.http_url}/v2/models/{case.model}/infer",
            b"".join(buffers),
            int(header_length or 0),
            "application/octet-stream",
            _read_oip,
        )


def _read_oip(answer: Answer) -> np.ndarray:
    response = decode_response(answer.body, int(answer.headers[HEADER_LENGTH_NAME]))
    return response.outputs[0].to_numpy()


@asynccontextmanager
async def mosec(case: Case, folder: Path) -> AsyncIterator[Target]:
    """One worker that batches; raw bytes both ways, the least that mosec can be sent."""
    rows = [(name, array.dtype.name, array.shape[1:]) for name, array in case.inputs.items()]
    port = free_port()
    target = Target(
        f"http://127.0.0.1:{port}/inference",
        b"".join(array.tobytes() for array in case.inputs.values()),
        0,
        "application/octet-stream",
        lambda answer: np.frombuffer(answer.body, np.float32),
    )
    environment = {
        "ANCHOR_MODEL": str(case.file),
        "ANCHOR_THREADS": str(THREADS),
        "ANCHOR_SPINNING": str(int(case.is_spinning)),
        "ANCHOR_ROWS": json.dumps(rows),
    }
    options = ("--address", "127.0.0.1", "--port", str(port), "--log-level", "error")
    command = (python_of("mosec"), str(HERE / "mosec_server.py"), *options)
    async with running(command, environment, folder / "mosec.log", target.is_ready):
        yield target


@asynccontextmanager
async def mlserver(case: Case, folder: Path) -> AsyncIterator[Target]:
    """Adaptive batching in the server's own process: a pool of one worker gave a third in a short trial."""
    port, grpc_port = free_port(), free_port()
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": grpc_port,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
        "gzip_enabled": False,
    }
    extra = {"threads": THREADS, "spinning": str(int(case.is_spinning))}
    model = {
        "name": case.model,
        "implementation": "mlserver_runtime.AnchorRuntime",
        "max_batch_size": MAX_BATCH,
        "max_batch_time": MAX_WAIT_S,
        "parameters": {"uri": str(case.file), "extra": extra},
    }
    home = folder / "mlserver"
    home.mkdir()
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "model-settings.json").write_text(json.dumps(model))
    inputs = [_mlserver_input(name, array) for name, array in case.inputs.items()]
    target = Target(
        f"http://127.0.0.1:{port}/v2/models/{case.model}/infer",
        json.dumps({"inputs": inputs}, separators=(",", ":")).encode(),
        0,
        "application/json",
        lambda answer: np.frombuffer(
            b64decode(json.loads(answer.body)["outputs"][0]["data"][0]), np.float32
        ),
    )
    command = (str(Path(python_of("mlserver")).with_name("mlserver")), "start", str(home))
    async with running(
        command, {"PYTHONPATH": str(HERE)}, folder / "mlserver.log", target.is_ready
    ):
        yield target


def _mlserver_input(name: str, array: np.ndarray) -> dict[str, object]:
    if array.dtype == np.float32:
        data = [b64encode(array.tobytes()).decode()]
        return {"name": name, "shape": [1], "datatype": "BYTES", "data": data}
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": array.dtype.name.upper(),
        "data": array.reshape(-1).tolist(),
    }


SERVERS: dict[str, Server] = {"capamesh": capamesh, "mosec": mosec, "mlserver": mlserver}


def python_of(name: str) -> str:
    """Return the interpreter of a server's own environment, which is made where it is missing or outdated."""
    return str(environments.python_of(HERE / f"{name}.txt", BUILD / name))


def versions_of(name: str) -> dict[str, str]:
    """Return what is installed in a server's environment, by package."""
    return environments.versions_of(Path(python_of(name)))
