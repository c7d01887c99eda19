"""Tensors as they travel: datatypes, specifications, raw bytes and their checks. Pure."""

from __future__ import annotations

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.protocol.tensors.bfloat16 import bf16_from_fp32, bf16_from_fp64, fp32_from_bf16
from capamesh.protocol.tensors.byte_elements import join_elements, split_elements, take_elements
from capamesh.protocol.tensors.checks import DEFAULT_LIMITS, MAX_DIM, Limits, check_texts, checked
from capamesh.protocol.tensors.tensor import Tensor

__all__ = [
    "DEFAULT_LIMITS",
    "MAX_DIM",
    "Datatype",
    "Limits",
    "Tensor",
    "TensorSpec",
    "bf16_from_fp32",
    "bf16_from_fp64",
    "check_texts",
    "checked",
    "fp32_from_bf16",
    "join_elements",
    "split_elements",
    "take_elements",
]
