"""Tensors as they travel: datatypes, specifications, raw bytes and their checks. Pure."""

from __future__ import annotations

from capamesh.protocol.datatypes import BF16, BYTES, Datatype
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.protocol.tensors.bfloat16 import bf16_from_fp32, bf16_from_fp64, fp32_from_bf16
from capamesh.protocol.tensors.byte_elements import join_elements, split_elements, take_elements
from capamesh.protocol.tensors.checks import DEFAULT_LIMITS, MAX_DIM, Limits, check_texts, checked
from capamesh.protocol.tensors.classification import (
    MAX_CLASSES,
    check_classifiable,
    classified,
    has_classes,
    has_rows,
)
from capamesh.protocol.tensors.tensor import Tensor

__all__ = [
    "BF16",
    "BYTES",
    "DEFAULT_LIMITS",
    "MAX_CLASSES",
    "MAX_DIM",
    "Datatype",
    "Limits",
    "Tensor",
    "TensorSpec",
    "bf16_from_fp32",
    "bf16_from_fp64",
    "check_classifiable",
    "check_texts",
    "checked",
    "classified",
    "fp32_from_bf16",
    "has_classes",
    "has_rows",
    "join_elements",
    "split_elements",
    "take_elements",
]
