"""The fields of Triton's `config.pbtxt`: their types, which are ignored and which are refused, and why. Pure constants."""

from __future__ import annotations

from typing import Final

from capamesh.node.repository.triton.ensemble import ENSEMBLE
from capamesh.node.repository.triton.queue_policies import ACTIONS
from capamesh.node.repository.triton.sequence_batching import (
    CONTROL_KINDS,
    CONTROL_VALUES,
    SEQUENCE_BATCHING,
)
from capamesh.node.repository.triton.tensors import DATATYPES, FORMATS

TOP_IGNORED: Final = {
    "runtime": "ONNX Runtime is the only one",
    "optimization": "the node sets ONNX Runtime's options itself; name providers in capamesh.toml",
    "metric_tags": "a node's metrics have labels of their own",
    "model_metrics": "a node's metrics have buckets of their own",
    "parameters": "they are options of Triton's backends",
    "response_cache": "a node keeps no answers",
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
TENSOR_IGNORED: Final = {"is_non_linear_format_io": "it belongs to TensorRT"}
ENSEMBLE_IGNORED: Final = {"max_inflight_requests": "its models bound what waits"}
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "KIND_AUTO": (),
    "KIND_GPU": ("CUDAExecutionProvider",),
    "KIND_CPU": ("CPUExecutionProvider",),
}
"""The providers of a group's kind."""

ENUMS: Final = {
    "DataType": tuple(DATATYPES),
    "Format": tuple(FORMATS),
    "GroupKind": tuple(KINDS),
    "TimeoutAction": tuple(ACTIONS),
    "ControlKind": tuple(CONTROL_KINDS),
    "ModelPriority": ("PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN"),
}
"""The values that are read; any other is refused."""

_TENSOR: Final = {
    "name": "string",
    "data_type": "DataType",
    "dims": "integer*",
    "reshape": "Reshape",
    "is_shape_tensor": "flag",
    "is_non_linear_format_io": "flag",
}

TOP: Final = "ModelConfig"
MESSAGES: Final[dict[str, dict[str, str]]] = {
    TOP: {
        "name": "string",
        "platform": "string",
        "backend": "string",
        "runtime": "string",
        "version_policy": "VersionPolicy",
        "max_batch_size": "integer",
        "input": "Input*",
        "output": "Output*",
        "optimization": "Optimization",
        "dynamic_batching": "DynamicBatching",
        ENSEMBLE: "Ensemble",
        "instance_group": "InstanceGroup*",
        SEQUENCE_BATCHING: "SequenceBatching",
        "default_model_filename": "string",
        "cc_model_filenames": "TextEntry*",
        "metric_tags": "TextEntry*",
        "parameters": "ParameterEntry*",
        "model_warmup": "WarmUp*",
        "model_transaction_policy": "TransactionPolicy",
        "response_cache": "ResponseCache",
        "model_metrics": "Metrics",
    },
    "VersionPolicy": {"latest": "Latest", "all": "All", "specific": "Specific"},
    "Latest": {"num_versions": "integer"},
    "All": {},
    "Specific": {"versions": "integer*"},
    "Input": {**_TENSOR, "format": "Format", "allow_ragged_batch": "flag", "optional": "flag"},
    "Output": {**_TENSOR, "label_filename": "string"},
    "Reshape": {"shape": "integer*"},
    "Optimization": {
        "graph": "Graph",
        "priority": "ModelPriority",
        "cuda": "Cuda",
        "execution_accelerators": "Accelerators",
        "input_pinned_memory": "PinnedMemory",
        "output_pinned_memory": "PinnedMemory",
        "gather_kernel_buffer_threshold": "integer",
        "eager_batching": "flag",
    },
    "Graph": {"level": "integer"},
    "Cuda": {
        "graphs": "flag",
        "busy_wait_events": "flag",
        "graph_spec": "GraphSpec*",
        "output_copy_stream": "flag",
    },
    "GraphSpec": {
        "batch_size": "integer",
        "input": "GraphShapeEntry*",
        "graph_lower_bound": "GraphLowerBound",
    },
    "GraphLowerBound": {"batch_size": "integer", "input": "GraphShapeEntry*"},
    "GraphShapeEntry": {"key": "string", "value": "GraphShape"},
    "GraphShape": {"dim": "integer*"},
    "Accelerators": {
        "gpu_execution_accelerator": "Accelerator*",
        "cpu_execution_accelerator": "Accelerator*",
    },
    "Accelerator": {"name": "string", "parameters": "TextEntry*"},
    "PinnedMemory": {"enable": "flag"},
    "DynamicBatching": {
        "preferred_batch_size": "integer*",
        "max_queue_delay_microseconds": "integer",
        "preserve_ordering": "flag",
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
    "Ensemble": {"step": "Step*", "max_inflight_requests": "integer"},
    "Step": {
        "model_name": "string",
        "model_version": "integer",
        "input_map": "TextEntry*",
        "output_map": "TextEntry*",
    },
    "InstanceGroup": {
        "name": "string",
        "kind": "GroupKind",
        "count": "integer",
        "rate_limiter": "RateLimiter",
        "gpus": "integer*",
        "passive": "flag",
        "host_policy": "string",
    },
    "RateLimiter": {"resources": "Resource*", "priority": "integer"},
    "Resource": {"name": "string", "global": "flag", "count": "integer"},
    "SequenceBatching": {
        "max_sequence_idle_microseconds": "integer",
        "direct": "DirectStrategy",
        "oldest": "OldestStrategy",
        "control_input": "ControlInput*",
        "state": "State*",
    },
    "DirectStrategy": {
        "max_queue_delay_microseconds": "integer",
        "minimum_slot_utilization": "number",
    },
    "OldestStrategy": {
        "max_candidate_sequences": "integer",
        "preferred_batch_size": "integer*",
        "max_queue_delay_microseconds": "integer",
        "preserve_ordering": "flag",
    },
    "ControlInput": {"name": "string", "control": "Control*"},
    "Control": {"kind": "ControlKind", "data_type": "DataType", **CONTROL_VALUES},
    "State": {
        "input_name": "string",
        "output_name": "string",
        "data_type": "DataType",
        "dims": "integer*",
        "initial_state": "InitialState*",
        "use_same_buffer_for_input_output": "flag",
        "use_growable_memory": "flag",
    },
    "InitialState": {
        "name": "string",
        "data_type": "DataType",
        "dims": "integer*",
        "zero_data": "flag",
        "data_file": "string",
    },
    "ParameterEntry": {"key": "string", "value": "Parameter"},
    "Parameter": {"string_value": "string"},
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
    "ResponseCache": {"enable": "flag"},
    "Metrics": {"metric_control": "MetricControl*"},
    "MetricControl": {"metric_identifier": "MetricFamily", "histogram_options": "Histogram"},
    "MetricFamily": {"family": "string"},
    "Histogram": {"buckets": "number*"},
}
"""Triton's messages but for what is refused: of each the fields' types, `*` after that of a repeated one. A map is a
repeated message of `key` and `value`, as it is written."""

_PARTS: Final = "pad with [[batching.ragged]] in capamesh.toml: a request's place in a batch is not known to the model"
_CODE: Final = "a model cannot bring code to a node; remove it"
REFUSED: Final[dict[str, dict[str, str]]] = {
    TOP: {
        "batch_input": _PARTS,
        "batch_output": _PARTS,
        "model_operations": _CODE,
        "model_repository_agents": _CODE,
    },
    "Step": {"model_namespace": "models have no namespaces; remove it"},
    "InstanceGroup": {
        "secondary_devices": "ONNX Runtime has none; remove it",
        "profile": "it belongs to TensorRT's own plans; remove it",
    },
    "SequenceBatching": dict.fromkeys(
        ("iterative_sequence", "generative_sequence"), "a request is run once; remove it"
    ),
}
"""The other fields of a message, refused by their names: whatever is in them, there is nothing like them here."""
