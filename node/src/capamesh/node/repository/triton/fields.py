"""The fields of Triton's `config.pbtxt` that are read, ignored and refused, and why. Pure constants."""

from __future__ import annotations

from typing import Final

from capamesh.node.repository.triton.ensemble import ENSEMBLE
from capamesh.node.repository.triton.queue_policies import ACTIONS
from capamesh.node.repository.triton.sequence_batching import (
    CONTROL_KINDS,
    CONTROL_VALUES,
    ROUNDS,
    SEQUENCE_BATCHING,
    STATE_IGNORED,
    STRATEGY_IGNORED,
)
from capamesh.node.repository.triton.tensors import DATATYPES

TOP_IGNORED: Final = {
    "runtime": "ONNX Runtime is the only one",
    "optimization": "the node sets ONNX Runtime's options itself; name providers in capamesh.toml",
    "metric_tags": "a node's metrics have labels of their own",
    "model_metrics": "a node's metrics have buckets of their own",
    "parameters": "they are options of Triton's backends",
    "response_cache": "a node keeps no answers",
}
TOP_REFUSED: Final = {
    "batch_input": "inputs made from a batch's parts are not supported; pad with [[batching.ragged]] "
    "in capamesh.toml",
    "batch_output": "outputs cut by a batch's parts are not supported; pad with [[batching.ragged]] "
    "in capamesh.toml",
    "model_operations": "a model cannot bring code to a node; remove it",
    "model_repository_agents": "a model cannot bring code to a node; remove it",
}
BATCHING_IGNORED: Final = {
    "preferred_batch_size": "a batch takes what waits, up to max_batch_size",
    "preserve_ordering": "answers go out as soon as they are there",
}
GROUP_IGNORED: Final = {
    "name": "instances have no names",
    "gpus": "every device of a node serves its models; say at the node's start which it uses",
    "rate_limiter": "instances are limited by their count alone",
    "host_policy": "the node sets it",
}
GROUP_REFUSED: Final = {
    "secondary_devices": "ONNX Runtime has none; remove it",
    "profile": "it belongs to TensorRT's own plans; remove it",
}
TENSOR_IGNORED: Final = {
    "format": "dims say it all",
    "is_non_linear_format_io": "it belongs to TensorRT",
}
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "KIND_AUTO": (),
    "KIND_GPU": ("CUDAExecutionProvider",),
    "KIND_CPU": ("CPUExecutionProvider",),
}
"""The providers of a group's kind."""

ENUMS: Final = {
    "DataType": tuple(DATATYPES),
    "GroupKind": tuple(KINDS),
    "TimeoutAction": tuple(ACTIONS),
    "ControlKind": tuple(CONTROL_KINDS),
}
"""The values that are read; any other is refused."""

_TENSOR: Final = {
    "name": "string",
    "data_type": "DataType",
    "dims": "integer*",
    "reshape": "Reshape",
    "is_shape_tensor": "flag",
}

TOP: Final = "ModelConfig"
MESSAGES: Final[dict[str, dict[str, str]]] = {
    TOP: {
        "name": "string",
        "platform": "string",
        "backend": "string",
        "version_policy": "VersionPolicy",
        "max_batch_size": "integer",
        "input": "Input*",
        "output": "Output*",
        "dynamic_batching": "DynamicBatching",
        ENSEMBLE: "Ensemble",
        "instance_group": "InstanceGroup*",
        SEQUENCE_BATCHING: "SequenceBatching",
        "default_model_filename": "string",
        "cc_model_filenames": "TextEntry*",
        "model_warmup": "WarmUp*",
        "model_transaction_policy": "TransactionPolicy",
    },
    "VersionPolicy": {"latest": "Latest", "all": "All", "specific": "Specific"},
    "Latest": {"num_versions": "integer"},
    "All": {},
    "Specific": {"versions": "integer*"},
    "Input": {**_TENSOR, "allow_ragged_batch": "flag", "optional": "flag"},
    "Output": {**_TENSOR, "label_filename": "string"},
    "Reshape": {"shape": "integer*"},
    "DynamicBatching": {
        "max_queue_delay_microseconds": "integer",
        "default_queue_policy": "QueuePolicy",
        "priority_queue_policy": "QueuePolicyEntry*",
        "priority_levels": "integer",
        "default_priority_level": "integer",
    },
    "QueuePolicy": {
        "timeout_action": "TimeoutAction",
        "default_timeout_microseconds": "integer",
        "allow_timeout_override": "flag",
        "max_queue_size": "integer",
    },
    "QueuePolicyEntry": {"key": "integer", "value": "QueuePolicy"},
    "TextEntry": {"key": "string", "value": "string"},
    "Ensemble": {"step": "Step*"},
    "Step": {
        "model_name": "string",
        "model_version": "integer",
        "input_map": "TextEntry*",
        "output_map": "TextEntry*",
    },
    "InstanceGroup": {"kind": "GroupKind", "count": "integer", "passive": "flag"},
    "SequenceBatching": {
        "max_sequence_idle_microseconds": "integer",
        "direct": "DirectStrategy",
        "oldest": "OldestStrategy",
        "control_input": "ControlInput*",
        "state": "State*",
    },
    "DirectStrategy": {"max_queue_delay_microseconds": "integer"},
    "OldestStrategy": {"max_queue_delay_microseconds": "integer"},
    "ControlInput": {"name": "string", "control": "Control*"},
    "Control": {"kind": "ControlKind", "data_type": "DataType", **CONTROL_VALUES},
    "State": {
        "input_name": "string",
        "output_name": "string",
        "data_type": "DataType",
        "dims": "integer*",
        "initial_state": "InitialState*",
    },
    "InitialState": {
        "name": "string",
        "data_type": "DataType",
        "dims": "integer*",
        "zero_data": "flag",
        "data_file": "string",
    },
    "WarmUp": {
        "name": "string",
        "batch_size": "integer",
        "inputs": "WarmUpInputEntry*",
        "count": "integer",
    },
    "WarmUpInputEntry": {"key": "string", "value": "WarmUpInput"},
    "WarmUpInput": {
        "data_type": "DataType",
        "dims": "integer*",
        "zero_data": "flag",
        "random_data": "flag",
        "input_data_file": "string",
    },
    "TransactionPolicy": {"decoupled": "flag"},
}
"""The fields that are read: of each message the fields' types, `*` after that of a repeated one. A map is a repeated
message of `key` and `value`, as it is written."""

SKIPPED: Final[dict[str, tuple[str, ...]]] = {
    TOP: (*TOP_IGNORED, *TOP_REFUSED),
    "Input": tuple(TENSOR_IGNORED),
    "Output": tuple(TENSOR_IGNORED),
    "DynamicBatching": tuple(BATCHING_IGNORED),
    "Step": ("model_namespace",),
    "InstanceGroup": (*GROUP_IGNORED, *GROUP_REFUSED),
    "SequenceBatching": ROUNDS,
    "DirectStrategy": STRATEGY_IGNORED["direct"],
    "OldestStrategy": STRATEGY_IGNORED["oldest"],
    "State": tuple(STATE_IGNORED),
}
"""The fields of a message that are known and not read, whatever is in them."""
