"""Writes a request for a model that anybody can send again: arrays for the command, JSON for curl.

Writes files, and asks a router to run what was written.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.client import Datatype, ModelMetadata, Tensor, TensorSpec
from capamesh.protocol.errors import CapameshError, InvalidRequest, TooLarge
from capamesh.protocol.oip import encode_request

if TYPE_CHECKING:
    from capamesh.client import AsyncClient


TRIAL_LIMIT_S: Final = 10.0
"""The longest time of a trial request (guess: a large model's first run; one row takes milliseconds to a second)."""


@dataclass(frozen=True, slots=True)
class Example:
    """A request on disk: the options of `capamesh infer`, and the body for curl."""

    model: str
    infer_options: str
    request: Path
    inputs: tuple[Tensor, ...]
    refusal: str = ""
    """The reason why the model does not run the request; empty where it does."""


async def tried_examples(
    client: AsyncClient, models: Sequence[str], folder: Path, cases: Path
) -> list[Example]:
    """Write an example of each model into `folder` and run it, so that nobody is shown one that fails.

    `cases` has an archive `MODEL.npz` for those that come with one.
    """
    examples: list[Example] = []
    for name in models:
        metadata = await client.metadata(name)
        example = write_example(folder, metadata, cases / f"{name}.npz")
        try:
            inputs = {tensor.name: tensor for tensor in example.inputs}
            await client.infer(name, inputs, timeout_s=TRIAL_LIMIT_S)
        except (InvalidRequest, TooLarge) as error:
            example = replace(example, refusal=error.message)
        except CapameshError:
            pass  # it is busy, or slow: that says nothing of the example
        examples.append(example)
    return examples


def write_example(folder: Path, metadata: ModelMetadata, case: Path) -> Example:
    """Write one request for a model into `folder`: the first row of its sample `case` if there is one, else zeros.

    A case is an archive with `rows` for the one input named in `input`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = _case_arrays(metadata, case) or {s.name: _zeros(s) for s in metadata.inputs}
    tensors: list[Tensor] = []
    options: list[str] = []
    for number, spec in enumerate(metadata.inputs):
        array = arrays[spec.name]
        tensors.append(Tensor.from_numpy(spec.name, array, spec.datatype))
        if spec.datatype is Datatype.BYTES:
            options.append(f"--input {shlex.quote(f'{spec.name}={json.dumps(array.tolist())}')}")
            continue
        path = folder / f"{metadata.name}-{number}.npy"
        np.save(path, array, allow_pickle=False)
        options.append(f"--input {shlex.quote(f'{spec.name}=@{path}')}")
    request = folder / f"{metadata.name}.json"
    buffers, _ = encode_request(tensors, is_binary=False)
    request.write_bytes(b"".join(buffers))
    return Example(metadata.name, " ".join(options), request, tuple(tensors))


def _case_arrays(metadata: ModelMetadata, case: Path) -> dict[str, npt.NDArray[Any]] | None:
    if not case.is_file() or len(metadata.inputs) != 1:
        return None
    spec = metadata.inputs[0]
    with np.load(case, allow_pickle=False) as archive:
        rows = archive["rows"][:1]
    fits = spec.accepts(Datatype.of_numpy(rows.dtype), rows.shape) is None
    return {spec.name: rows} if fits else None  # a user's own model of the same name


def _zeros(spec: TensorSpec) -> npt.NDArray[Any]:
    shape = tuple(1 if dim < 0 else dim for dim in spec.shape)
    if spec.datatype is Datatype.BYTES:
        return np.full(shape, "text", dtype=object)
    if spec.datatype is Datatype.BF16:
        return np.zeros(shape, np.float32)
    return np.zeros(shape, spec.datatype.numpy_dtype)
