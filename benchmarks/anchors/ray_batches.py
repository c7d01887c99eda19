"""Runs one ONNX model over a Parquet file with Ray Data's `map_batches`, and writes Parquet. Run by `benchmarks/jobs.py`.

`python ray_batches.py MODEL ROWS.parquet SHAPES THREADS BATCH OUT` prints as JSON the rows, the seconds from the first reading to the
last written file, without the start of Ray, and those from the beginning of the first batch to the end of the last, in which no
actor is started either. SHAPES is JSON: the shape and the numpy dtype of a row for each input.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import ray


class OnnxBatches:
    """Runs batches; one actor has as many threads as the node beside which it is measured."""

    def __init__(self, model: str, shapes: dict[str, list], threads: int, times: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [each.name for each in self._session.get_outputs()]
        self._shapes = shapes
        self._times = Path(times, str(os.getpid())).open("a", buffering=1)  # noqa: SIM115 - as long as the actor

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the model's outputs for a batch of columns."""
        began_s = time.time()
        feed = {
            name: np.stack(batch[name]).astype(dtype, copy=False).reshape(-1, *shape)
            for name, (shape, dtype) in self._shapes.items()
        }
        outputs = self._session.run(None, feed)
        self._times.write(f"{began_s} {time.time()}\n")
        return dict(zip(self._outputs, outputs, strict=True))


def main() -> None:
    """Run all rows and print what they took."""
    model, rows, shapes, threads, batch, out = sys.argv[1:]
    ray.init(num_cpus=int(threads), include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as times:
        began_s = time.time()
        source = ray.data.read_parquet(rows)
        results = source.map_batches(
            OnnxBatches,
            fn_constructor_args=(model, json.loads(shapes), int(threads), times),
            batch_size=int(batch),
            concurrency=1,
        )
        results.write_parquet(out)
        took_s = time.time() - began_s
        spans = [
            [float(each) for each in line.split()]
            for file in Path(times).iterdir()
            for line in file.read_text().splitlines()
        ]
    busy_s = max(end_s for _, end_s in spans) - min(begin_s for begin_s, _ in spans)
    print(json.dumps({"rows": source.count(), "seconds": took_s, "busy_s": busy_s}))


if __name__ == "__main__":
    main()
