"""What the protocol's metadata, configuration and index routes answer, as JSON objects. Pure.

The configuration and index follow Triton's extensions of the protocol, which its client libraries and
load generators ask for before they send anything.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from capamesh.protocol.tensors import Datatype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.tensors import TensorSpec

PLATFORM: Final = "onnxruntime_onnx"
"""Triton's name for ONNX models run by ONNX Runtime."""
BACKEND: Final = "onnxruntime"


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
    platform: str = PLATFORM,
) -> dict[str, object]:
    """Return the body of `GET /v2/models/{name}`; -1 in a shape stands for any size."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": platform,
        "inputs": [_metadata_tensor(spec) for spec in inputs],
        "outputs": [_metadata_tensor(spec) for spec in outputs],
    }


def model_config_body(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    platform: str = PLATFORM,
    is_decoupled: bool = False,
) -> dict[str, object]:
    """Return the body of `GET /v2/models/{name}/config`, in the shape of Triton's model configuration.

    `max_batch_size` is 0: shapes are given whole, the batch dimension included. `is_decoupled` tells
    that one request may have any number of answers.
    """
    return {
        "name": name,
        "platform": platform,
        "backend": BACKEND,
        "max_batch_size": 0,
        "input": [_config_tensor(spec) for spec in inputs],
        "output": [_config_tensor(spec) for spec in outputs],
        "model_transaction_policy": {"decoupled": is_decoupled},
    }


def index_entry(
    name: str, version: str, state: IndexState, *, reason: str = ""
) -> dict[str, object]:
    """Return one entry of the list that `POST /v2/repository/index` answers."""
    return {"name": name, "version": version, "state": state.value, "reason": reason}


def _metadata_tensor(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)}


def _config_tensor(spec: TensorSpec) -> dict[str, object]:
    kind = "STRING" if spec.datatype is Datatype.BYTES else spec.datatype.value
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape)}
