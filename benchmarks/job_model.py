"""A model for batch jobs whose answer is a function of the row, to the last bit, and a data set of any rows for it. Writes files.

A run takes some time, so that there is a middle of a job in which something can die.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from engine_models import LOOP, LOOP_CONSTANTS, model_of, save

NAME = "row_sums"
WIDTH = 64
"""The columns of a row."""
PLACES = 100
"""The number of a row stands in its first two columns, as digits to this base: small numbers, whose sums are exact in any order."""
BATCH_ROWS = 8
MANIFEST = f"[batching]\nmax_rows = {BATCH_ROWS}\n"


def row_sums(turns: int) -> onnx.ModelProto:
    """Return float32 [rows, WIDTH] to float32 [rows, 2]: the row's number, and the sum of its columns. A run turns a loop, 4 µs each."""
    weights = np.zeros((WIDTH, 2), np.float32)
    weights[:, 1] = 1
    weights[0, 0], weights[1, 0] = PLACES, 1
    # the loop's turns are made of the rows, so that nothing of it is folded away
    return model_of(
        f"""row_sums (float[rows, {WIDTH}] x) => (float[rows, 2] y)
        <int64[1] given = {{{turns}}}, float[1] nothing = {{0}}, int64[1] first = {{1}}> {{
            greatest = ReduceMax <keepdims = 0> (x)
            one_number = Reshape(greatest, first)
            no_more = Mul(one_number, nothing)
            no_turns = Cast <to = 7> (no_more)
            turns = Add(given, no_turns)
            {LOOP}
            zero_turns = Sub(done, given)
            zero_number = Cast <to = 1> (zero_turns)
            sums = MatMul(x, weights)
            y = Add(sums, zero_number)
        }}""",
        weights=weights,
        **LOOP_CONSTANTS,
    )


def write_model(models: Path, turns: int) -> Path:
    """Write the model as a node's folder has it; return its file."""
    return save(row_sums(turns), models, NAME, manifest=MANIFEST)


def write_rows(file: Path, rows: int) -> None:
    """Write a data set as a `.npy` of float32 [rows, WIDTH]."""
    numbers = np.arange(rows)
    data = np.lib.format.open_memmap(file, "w+", np.float32, (rows, WIDTH))
    columns = np.arange(WIDTH)
    for first in range(0, rows, BATCH_ROWS):
        some = numbers[first : first + BATCH_ROWS, None]
        data[first : first + BATCH_ROWS] = (some * 31 + columns * (some % 97 + 1)) % 251
    data[:, 0], data[:, 1] = numbers // PLACES, numbers % PLACES
    data.flush()


def answers(file: Path, rows: Path) -> np.ndarray:
    """Return what ONNX Runtime itself answers to each row, in a loop over batches: float32 [rows, 2]."""
    import onnxruntime  # noqa: PLC0415 - not for those who only write files

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    data = np.load(rows, mmap_mode="r")
    found = [
        session.run(["y"], {"x": data[first : first + BATCH_ROWS]})[0]
        for first in range(0, len(data), BATCH_ROWS)
    ]
    return np.concatenate(found)


def digest(lines: Iterable[tuple[int, list[float]]]) -> str:
    """Return the SHA-256 of results in the order of their rows: equal results have equal digests."""
    found = hashlib.sha256()
    for row, values in lines:
        found.update(f"{row} {' '.join(str(float(each)) for each in values)}\n".encode())
    return found.hexdigest()
