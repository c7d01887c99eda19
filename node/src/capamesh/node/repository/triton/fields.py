"""Which fields of Triton's `config.pbtxt` are read, ignored and refused, and why. Pure constants."""

from __future__ import annotations

from typing import Final

from capamesh.node.repository.triton.ensemble import ENSEMBLE
from capamesh.node.repository.triton.queue_policies import QUEUE_FIELDS
from capamesh.node.repository.triton.sequence_batching import SEQUENCE_BATCHING

TOP: Final = (
    "name",
    "platform",
    "backend",
    "version_policy",
    "max_batch_size",
    "input",
    "output",
    "dynamic_batching",
    ENSEMBLE,
    "instance_group",
    SEQUENCE_BATCHING,
    "default_model_filename",
    "cc_model_filenames",
    "model_warmup",
    "model_transaction_policy",
)
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
BATCHING: Final = ("max_queue_delay_microseconds", *QUEUE_FIELDS)
BATCHING_IGNORED: Final = {
    "preferred_batch_size": "a batch takes what waits, up to max_batch_size",
    "preserve_ordering": "answers go out as soon as they are there",
}
GROUP: Final = ("kind", "count")
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
TENSOR: Final = ("name", "data_type", "dims", "reshape", "is_shape_tensor")
OF_INPUTS: Final = ("allow_ragged_batch", "optional")
TENSOR_IGNORED: Final = {
    "format": "dims say it all",
    "label_filename": "answers carry no labels",
    "is_non_linear_format_io": "it belongs to TensorRT",
}
WARM_UP_INPUT: Final = ("data_type", "dims", "zero_data", "random_data", "input_data_file")
