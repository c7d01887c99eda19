"""Serves one ONNX model with mosec, batched, tensors as raw bytes both ways. Run by `benchmarks/anchors.py`.

The environment says which: ANCHOR_MODEL is the file, ANCHOR_THREADS the threads of a run, ANCHOR_SPINNING 1
where idle ones spin, ANCHOR_ROWS the inputs of one row as JSON, `[[name, numpy dtype, shape], ...]`. A body is these inputs one after the other; the answer
is the model's first output. Options are mosec's own (`--port`, ...).
"""

from __future__ import annotations

import json
import math
import os

import numpy as np
import onnxruntime
from mosec import Server, Worker

MAX_BATCH = 8
"""The batch at which ONNX Runtime is fastest on two cores, by this folder's models."""
MAX_WAIT_MS = 1
"""The least that mosec takes. It waits only until the batch is full."""


class OnnxWorker(Worker):
    """Runs the model over rows that are stacked to a batch."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["ANCHOR_THREADS"])
        spinning = os.environ["ANCHOR_SPINNING"]
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        self._session = onnxruntime.InferenceSession(
            os.environ["ANCHOR_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self._rows = [
            (name, np.dtype(dtype), shape)
            for name, dtype, shape in json.loads(os.environ["ANCHOR_ROWS"])
        ]

    def deserialize(self, data: bytes) -> list[np.ndarray]:
        """Return one row's inputs, views of `data`."""
        arrays, offset = [], 0
        for _, dtype, shape in self._rows:
            count = math.prod(shape)
            arrays.append(np.frombuffer(data, dtype, count, offset).reshape(shape))
            offset += count * dtype.itemsize
        return arrays

    def forward(self, data: list[list[np.ndarray]]) -> list[np.ndarray]:
        """Run a batch; return each row's first output."""
        stacked = map(np.stack, zip(*data, strict=True))
        feed = {name: array for (name, _, _), array in zip(self._rows, stacked, strict=True)}
        return list(self._session.run(None, feed)[0])

    def serialize(self, data: np.ndarray) -> bytes:
        """Return one row's output."""
        return data.tobytes()


if __name__ == "__main__":
    server = Server()
    server.append_worker(OnnxWorker, num=1, max_batch_size=MAX_BATCH, max_wait_time=MAX_WAIT_MS)
    server.run()
