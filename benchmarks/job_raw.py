"""ONNX Runtime in a loop over the rows of a data set, in a process that does nothing else. Run by `benchmarks/jobs.py`.

`python benchmarks/job_raw.py MODEL INPUTS.npz THREADS BATCH SECONDS` runs the rows in batches, from the first again after the last,
until so many seconds have passed, and prints as JSON the rows, the seconds and the CPU seconds of it.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

WARM_UP_RUNS = 3


def loop(
    model: Path, inputs: dict[str, np.ndarray], threads: int, batch: int, seconds: float
) -> dict[str, float]:
    """Run rows of `inputs`, each [rows, ...], for so many seconds; return how many rows that were, and what they took."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = len(next(iter(inputs.values())))
    feeds = [
        {name: array[first : first + batch] for name, array in inputs.items()}
        for first in range(0, rows, batch)
    ]
    for _ in range(WARM_UP_RUNS):
        session.run(None, feeds[0])
    done, began_s, began_cpu_s = 0, time.perf_counter(), time.process_time()
    for feed in itertools.cycle(feeds):
        session.run(None, feed)
        done += len(next(iter(feed.values())))
        if (took_s := time.perf_counter() - began_s) >= seconds:
            break
    return {"rows": done, "seconds": took_s, "cpu_s": time.process_time() - began_cpu_s}


if __name__ == "__main__":
    with np.load(sys.argv[2]) as loaded:
        given = {name: loaded[name] for name in loaded.files}
    model, (threads, batch), seconds = (
        Path(sys.argv[1]),
        map(int, sys.argv[3:5]),
        float(sys.argv[5]),
    )
    print(json.dumps(loop(model, given, threads, batch, seconds)))
