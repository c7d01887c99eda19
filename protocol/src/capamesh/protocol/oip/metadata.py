"""The answers of the protocol's metadata, configuration and index routes, as JSON objects. Pure.

The configuration and index follow Triton's extensions of the protocol, which its client libraries and
load generators ask for before they send anything.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from capamesh.protocol.adverts import Scheduling
from capamesh.protocol.tensors import Datatype

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from capamesh.protocol.tensors import TensorSpec

PLATFORM: Final = "onnxruntime_onnx"
"""Triton's name for ONNX models run by ONNX Runtime."""
BACKEND: Final = "onnxruntime"
NO_FORMATS: Final[Mapping[str, str]] = MappingProxyType({})
LABELS_FILE: Final = "labels.txt"
"""The name that Triton's examples give to the file with the names of classes."""


class IndexState(StrEnum):
    """A model version's state in the repository index, in Triton's words."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


def model_metadata_body(
    name: str,
    versions: Sequence[str],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    scheduling: Scheduling = Scheduling.PLAIN,
) -> dict[str, object]:
    """Return the body of `GET /v2/models/{name}`; -1 in a shape stands for any size."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": _platform(scheduling),
        "inputs": [_metadata_tensor(spec) for spec in inputs],
        "outputs": [_metadata_tensor(spec) for spec in outputs],
    }


def model_config_body(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_batch_size: int = 0,
    formats: Mapping[str, str] = NO_FORMATS,
    scheduling: Scheduling = Scheduling.PLAIN,
    labelled: Collection[str] = (),
    is_decoupled: bool = False,
) -> dict[str, object]:
    """Return the body of `GET /v2/models/{name}/config`, in the shape of Triton's model configuration.

    Where the first axis counts rows, `max_batch_size` is above 0 and `dims` leave that axis out, as in Triton; else
    `dims` are whole shapes. `formats` are of the inputs that are pictures: "NCHW" or "NHWC". The outputs that are `labelled` have names for their classes, and for that a `label_filename`. `is_decoupled`: it may answer in parts.
    """
    skipped = 1 if max_batch_size else 0
    body: dict[str, object] = {
        "name": name,
        "platform": _platform(scheduling),
        "backend": "" if scheduling is Scheduling.ENSEMBLE else BACKEND,
        "max_batch_size": max_batch_size,
        "input": [_config_tensor(spec, skipped) | _format_of(spec, formats) for spec in inputs],
        "output": [_config_tensor(spec, skipped) | _labels_of(spec, labelled) for spec in outputs],
        "model_transaction_policy": {"decoupled": is_decoupled},
    }
    if scheduling is Scheduling.SEQUENCE:
        body["sequence_batching"] = {}  # its presence is what clients look for
    return body


def has_batch_axis(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Return whether the first dimension of all inputs and outputs is open: it counts rows."""
    return bool(inputs) and all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))


def _platform(scheduling: Scheduling) -> str:
    return "ensemble" if scheduling is Scheduling.ENSEMBLE else PLATFORM


def index_entry(
    name: str, version: str, state: IndexState, *, reason: str = ""
) -> dict[str, object]:
    """Return one entry of the list that `POST /v2/repository/index` answers."""
    return {"name": name, "version": version, "state": state.value, "reason": reason}


def _metadata_tensor(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)}


def _labels_of(spec: TensorSpec, labelled: Collection[str]) -> dict[str, object]:
    return {"label_filename": LABELS_FILE} if spec.name in labelled else {}


def _format_of(spec: TensorSpec, formats: Mapping[str, str]) -> dict[str, object]:
    return {"format": f"FORMAT_{formats.get(spec.name) or 'NONE'}"}


def _config_tensor(spec: TensorSpec, skipped: int) -> dict[str, object]:
    """Return a tensor without the first `skipped` dimensions."""
    kind = "STRING" if spec.datatype is Datatype.BYTES else spec.datatype.value
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape[skipped:])}
