"""Reads Triton's `config.pbtxt` as rules of ours and says what has no counterpart. Pure: bytes in, a value out.

Field names and defaults are those of Triton's model_config.proto. A field that changes what a model
computes or takes and that we cannot honour is refused; one that only tunes Triton is ignored with a note.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from capamesh.node.store.config_ensemble import ENSEMBLE, read_steps
from capamesh.node.store.declared import DeclaredIo
from capamesh.node.store.limits import (
    MAX_AXIS,
    MAX_DELAY_US,
    MAX_DIM,
    MAX_INSTANCES,
    MAX_MANIFEST_BYTES,
    MAX_NAME_CHARS,
    MAX_NAMES,
    MAX_QUEUE_LIMIT,
    MAX_ROWS,
    MAX_VERSION,
    MAX_VERSIONS,
    MAX_WARM_UP_COUNT,
    MAX_WARM_UPS,
)
from capamesh.node.store.manifest import Manifest
from capamesh.node.store.rule_checks import rules_problem
from capamesh.node.store.rules import BatchingRules, Rules, VersionChoice, VersionPolicy, WarmUp
from capamesh.node.store.text_fields import Fields
from capamesh.node.store.text_format import parse_text
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype, TensorSpec

_ONNX_FILE: Final = "model.onnx"
_MAX_DIMS: Final = MAX_AXIS + 1
_MAX_GROUPS: Final = 64  # guess: one for each device of the largest machines

_DATATYPES: Final[dict[str, Datatype | None]] = {
    "TYPE_BOOL": Datatype.BOOL,
    "TYPE_UINT8": Datatype.UINT8,
    "TYPE_UINT16": Datatype.UINT16,
    "TYPE_UINT32": Datatype.UINT32,
    "TYPE_UINT64": Datatype.UINT64,
    "TYPE_INT8": Datatype.INT8,
    "TYPE_INT16": Datatype.INT16,
    "TYPE_INT32": Datatype.INT32,
    "TYPE_INT64": Datatype.INT64,
    "TYPE_FP16": Datatype.FP16,
    "TYPE_BF16": Datatype.BF16,
    "TYPE_FP32": Datatype.FP32,
    "TYPE_FP64": Datatype.FP64,
    "TYPE_STRING": Datatype.BYTES,
}
_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "KIND_AUTO": (),
    "KIND_GPU": ("CUDAExecutionProvider",),
    "KIND_CPU": ("CPUExecutionProvider",),
}

_TOP: Final = (
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
    "default_model_filename",
    "model_warmup",
    "model_transaction_policy",
)
_TOP_IGNORED: Final = {
    "runtime": "ONNX Runtime is the only one",
    "optimization": "the node sets ONNX Runtime's options itself; name providers in capamesh.toml",
    "metric_tags": "a node's metrics have labels of their own",
    "model_metrics": "a node's metrics have buckets of their own",
    "parameters": "they are options of Triton's backends",
    "response_cache": "a node keeps no answers",
}
_TOP_REFUSED: Final = {
    "sequence_batching": "states are described differently here; write [sequence] into capamesh.toml",
    "batch_input": "inputs made from a batch's parts are not supported; pad with [[batching.ragged]] "
    "in capamesh.toml",
    "batch_output": "outputs cut by a batch's parts are not supported; pad with [[batching.ragged]] "
    "in capamesh.toml",
    "cc_model_filenames": f"every device serves {_ONNX_FILE}; remove it",
    "model_operations": "a model cannot bring code to a node; remove it",
    "model_repository_agents": "a model cannot bring code to a node; remove it",
}
_BATCHING: Final = ("max_queue_delay_microseconds", "default_queue_policy")
_BATCHING_IGNORED: Final = {
    "preferred_batch_size": "a batch takes what waits, up to max_batch_size",
    "preserve_ordering": "answers go out as soon as they are there",
    "priority_levels": "a request brings its own priority",
    "default_priority_level": "a request brings its own priority",
    "priority_queue_policy": "a request brings its own priority and deadline",
}
_QUEUE_IGNORED: Final = {
    "timeout_action": "a request brings its own deadline",
    "default_timeout_microseconds": "a request brings its own deadline",
    "allow_timeout_override": "a request brings its own deadline",
}
_GROUP: Final = ("kind", "count")
_GROUP_IGNORED: Final = {
    "name": "instances have no names",
    "gpus": "every device of a node serves its models; say at the node's start which it uses",
    "rate_limiter": "instances are limited by their count alone",
    "host_policy": "the node sets it",
}
_GROUP_REFUSED: Final = {
    "secondary_devices": "ONNX Runtime has none; remove it",
    "profile": "it belongs to TensorRT's own plans; remove it",
}
_TENSOR: Final = ("name", "data_type", "dims", "allow_ragged_batch", "optional", "is_shape_tensor")
_TENSOR_IGNORED: Final = {
    "format": "dims say it all",
    "label_filename": "answers carry no labels",
    "is_non_linear_format_io": "it belongs to TensorRT",
}
_TENSOR_REFUSED: Final = {
    "reshape": "tensors are taken in the model's own shape; declare that as dims and remove the reshape",
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What the file beside a model says about it, in our terms."""

    manifest: Manifest = field(default_factory=Manifest)
    declared: DeclaredIo = field(default_factory=DeclaredIo)
    notes: tuple[str, ...] = ()
    """What was ignored and why, for the operator; a line each."""


def parse_config(raw: bytes, file: str, model: str) -> ModelConfig:
    """Return the configuration in `raw`, protobuf text in UTF-8, of the model called `model`.

    Raises ModelInvalid, which names `file`: too large, not protobuf text, an unknown field, a value of the
    wrong type or over its limit, another backend than ONNX Runtime, something that we cannot honour.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ModelInvalid(
            f"{file} has {len(raw)} bytes, at most {MAX_MANIFEST_BYTES} are allowed: shorten it"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ModelInvalid(f"{file} is not UTF-8: {exc}") from exc
    top = Fields(parse_text(text, file), (*_TOP, *_TOP_IGNORED, *_TOP_REFUSED), file)
    config = _Reader(model).config(top)
    if problem := rules_problem(config.manifest.rules, model):
        raise ModelInvalid(f"{file}: as rules of ours it says {problem}")
    return config


class _Reader:
    """One pass over a file; gathers the notes."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._notes: list[str] = []

    def config(self, top: Fields) -> ModelConfig:
        self._sort_out(top, "", _TOP_IGNORED, _TOP_REFUSED)
        self._check_names(top)
        has_max_rows = "max_batch_size" in top
        max_rows = top.integer("max_batch_size", 0, MAX_ROWS)
        declared = DeclaredIo(
            self._tensors(top, "input"), self._tensors(top, "output"), has_batch_axis=max_rows > 0
        )
        steps = read_steps(top, declared)
        batching, max_queue = self._batching(top, max_rows, is_pipeline=bool(steps))
        if not has_max_rows and "dynamic_batching" not in top:
            # Triton completes a file without the field from the model; so does the loader.
            batching = BatchingRules()
        instances, providers = self._instances(top)
        if steps and "instance_group" in top:
            raise top.refused(
                "instance_group",
                "an ensemble runs nowhere itself; say it in the configs of its models",
            )
        rules = Rules(
            batching=batching,
            steps=steps,
            warm_up=self._warm_up(top, max_rows),
            versions=_versions(top),
            instances=instances,
        )
        manifest = Manifest(providers=providers, max_queue=max_queue, rules=rules)
        return ModelConfig(manifest, declared, tuple(self._notes))

    def _sort_out(
        self, fields: Fields, where: str, ignored: dict[str, str], refused: dict[str, str]
    ) -> None:
        """Note the fields that are ignored; raise ModelInvalid at the first that is refused."""
        for name, reason in refused.items():
            if name in fields:
                raise fields.refused(name, reason)
        self._notes += [
            f"{where}{name} is ignored: {reason}"
            for name, reason in ignored.items()
            if name in fields
        ]

    def _check_names(self, top: Fields) -> None:
        name = top.text("name", MAX_NAME_CHARS)
        if name not in {"", self._model}:
            raise top.refused(
                "name", f"is {name!r} in the folder {self._model!r}; make them the same"
            )
        platform = top.text("platform", MAX_NAME_CHARS)
        if platform not in {"", "onnxruntime_onnx", "ensemble"}:
            raise top.refused(
                "platform",
                f"{platform!r} is not served; export the model as ONNX (onnxruntime_onnx)",
            )
        if (platform == "ensemble") != (ENSEMBLE in top):
            raise top.refused(
                "platform", f"'ensemble' and {ENSEMBLE} belong together; add the other"
            )
        backend = top.text("backend", MAX_NAME_CHARS)
        if backend not in {"", "onnxruntime"}:
            raise top.refused(
                "backend", f"{backend!r} is not served; export the model as ONNX (onnxruntime)"
            )
        file = top.text("default_model_filename", MAX_NAME_CHARS)
        if file not in {"", _ONNX_FILE}:
            raise top.refused(
                "default_model_filename", f"is {file!r}; call the file {_ONNX_FILE!r}"
            )
        policy = top.message("model_transaction_policy", ("decoupled",))
        if policy is not None and policy.flag("decoupled"):
            raise policy.refused(
                "decoupled", "ONNX Runtime gives one answer to a request; remove it"
            )

    def _tensors(self, top: Fields, side: str) -> tuple[TensorSpec, ...]:
        """Return the declared inputs or outputs, as `side` says."""
        allowed = (*_TENSOR, *_TENSOR_IGNORED, *_TENSOR_REFUSED)
        specs: dict[str, TensorSpec] = {}
        for tensor in top.messages(side, allowed, MAX_NAMES):
            name = tensor.text("name", MAX_NAME_CHARS)
            if not name or name in specs:
                raise tensor.refused("name", f"{name!r} is empty or there twice")
            self._sort_out(tensor, f"{side} {name!r}: ", _TENSOR_IGNORED, _TENSOR_REFUSED)
            if tensor.flag("allow_ragged_batch"):
                raise tensor.refused(
                    "allow_ragged_batch",
                    "requests of different shapes are padded here; write [[batching.ragged]] into "
                    "capamesh.toml",
                )
            if tensor.flag("optional"):
                raise tensor.refused(
                    "optional", "every input must be given; remove the declaration"
                )
            if tensor.flag("is_shape_tensor"):
                raise tensor.refused("is_shape_tensor", "it belongs to TensorRT; remove it")
            specs[name] = TensorSpec(name, _datatype(tensor), _dims(tensor, low=-1))
        return tuple(specs.values())

    def _batching(
        self, top: Fields, max_rows: int, *, is_pipeline: bool
    ) -> tuple[BatchingRules, int | None]:
        """Return how requests are put together, and how many may wait."""
        fields = top.message("dynamic_batching", (*_BATCHING, *_BATCHING_IGNORED))
        if fields is None:
            # Without it Triton lets every request run alone; an ensemble's models batch themselves.
            is_enabled = None if is_pipeline and max_rows else False
            return BatchingRules(is_enabled=is_enabled, max_rows=max_rows or None), None
        if is_pipeline:
            raise top.refused("dynamic_batching", f"excludes {ENSEMBLE}; remove one of the two")
        self._sort_out(fields, "dynamic_batching.", _BATCHING_IGNORED, {})
        delay_us = fields.integer("max_queue_delay_microseconds", 0, MAX_DELAY_US)
        max_queue = 0
        queue = fields.message("default_queue_policy", ("max_queue_size", *_QUEUE_IGNORED))
        if queue is not None:
            self._sort_out(queue, "dynamic_batching.default_queue_policy.", _QUEUE_IGNORED, {})
            max_queue = queue.integer("max_queue_size", 0, MAX_QUEUE_LIMIT)
        if not max_rows:
            self._notes.append("dynamic_batching is ignored: max_batch_size is 0 or missing")
        batching = BatchingRules(
            is_enabled=max_rows > 1, max_rows=max_rows or None, max_delay_us=delay_us
        )
        return batching, max_queue or None

    def _instances(self, top: Fields) -> tuple[int, tuple[str, ...]]:
        """Return how many instances a device has, 0 where nothing says it, and the providers that may run them."""
        allowed = (*_GROUP, "passive", *_GROUP_IGNORED, *_GROUP_REFUSED)
        groups = top.messages("instance_group", allowed, _MAX_GROUPS)
        counts: list[int] = []
        wanted: set[tuple[str, ...]] = set()
        for index, group in enumerate(groups):
            self._sort_out(group, f"instance_group[{index}].", _GROUP_IGNORED, _GROUP_REFUSED)
            if group.flag("passive"):
                raise group.refused("passive", "instances that take no requests are of no use here")
            counts.append(group.integer("count", 0, MAX_INSTANCES) or 1)
            wanted.add(group.choice("kind", _KINDS, ()))
        if len(groups) > 1:
            self._notes.append(
                f"instance_group: of {len(groups)} groups the largest count is taken for every device"
            )
        providers = wanted.pop() if len(wanted) == 1 else ()
        return max(counts, default=0), providers

    def _warm_up(self, top: Fields, max_rows: int) -> tuple[WarmUp, ...]:
        return tuple(
            _warm_up(fields, max_rows)
            for fields in top.messages(
                "model_warmup", ("name", "batch_size", "inputs", "count"), MAX_WARM_UPS
            )
        )


def _warm_up(fields: Fields, max_rows: int) -> WarmUp:
    rows = fields.integer("batch_size", 0, max(max_rows, 1)) or 1
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for name, entry in fields.entries("inputs", MAX_NAMES, MAX_NAME_CHARS):
        value = entry.message(
            "value", ("data_type", "dims", "zero_data", "random_data", "input_data_file")
        )
        if value is None:
            raise entry.refused("value", "is missing; add data_type, dims and zero_data")
        if "input_data_file" in value:
            raise value.refused(
                "input_data_file",
                "raw files are not read; put the inputs into a .npz and name it under [[warm_up]] in "
                "capamesh.toml",
            )
        _datatype(value)  # the model knows it; it must be one
        dims = _dims(value, low=1)
        shapes.append((name, (rows, *dims) if max_rows else dims))
    return WarmUp(shapes=tuple(shapes), count=fields.integer("count", 0, MAX_WARM_UP_COUNT) or 1)


def _versions(top: Fields) -> VersionPolicy:
    latest = VersionPolicy(VersionChoice.LATEST)
    policy = top.message("version_policy", tuple(VersionChoice))
    if policy is None:
        return latest
    given = [choice for choice in VersionChoice if choice in policy]
    if len(given) > 1:
        raise top.refused("version_policy", f"says {' and '.join(given)}; choose one")
    if fields := policy.message(VersionChoice.LATEST, ("num_versions",)):
        count = fields.integer("num_versions", 0, MAX_VERSIONS) or 1
        return VersionPolicy(VersionChoice.LATEST, count=count)
    if policy.message(VersionChoice.ALL, ()):
        return VersionPolicy(VersionChoice.ALL)
    if fields := policy.message(VersionChoice.SPECIFIC, ("versions",)):
        versions = fields.integers("versions", 1, MAX_VERSION, MAX_VERSIONS)
        if not versions:
            raise fields.refused("versions", "is empty; name at least one")
        return VersionPolicy(VersionChoice.SPECIFIC, versions=tuple(sorted(set(versions))))
    return latest


def _datatype(fields: Fields) -> Datatype:
    datatype = fields.choice("data_type", _DATATYPES, None)
    if datatype is None:
        raise fields.refused("data_type", f"is missing; it is one of {', '.join(_DATATYPES)}")
    return datatype


def _dims(fields: Fields, *, low: int) -> tuple[int, ...]:
    """Return the dims, each from `low`, and not 0."""
    dims = fields.integers("dims", low, MAX_DIM, _MAX_DIMS)
    if 0 in dims:
        raise fields.refused("dims", f"{list(dims)} has a dimension of 0; -1 is any size")
    return dims
