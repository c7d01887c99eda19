"""Reads Triton's `config.pbtxt` as rules of ours and says what has no counterpart. Pure: bytes in, a value out.

Field names and defaults are those of Triton's model_config.proto. A field that changes what a model
computes or takes and that we cannot honour is refused; one that only tunes Triton, or lets requests leave
something out, is ignored with a note.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from capamesh.node.repository.declared import DeclaredIo, Reshape
from capamesh.node.repository.external_data import checked_location
from capamesh.node.repository.limits import (
    MAX_DELAY_US,
    MAX_INSTANCES,
    MAX_MANIFEST_BYTES,
    MAX_NAME_CHARS,
    MAX_NAMES,
    MAX_ROWS,
    MAX_VERSION,
    MAX_VERSIONS,
    MAX_WARM_UP_COUNT,
    MAX_WARM_UPS,
)
from capamesh.node.repository.manifest import Manifest
from capamesh.node.repository.rule_checks import rules_problem
from capamesh.node.repository.rules import (
    BatchingRules,
    QueueRules,
    Rules,
    SequenceRules,
    VersionChoice,
    VersionPolicy,
    WarmUp,
)
from capamesh.node.repository.triton import fields as triton
from capamesh.node.repository.triton.ensemble import ENSEMBLE, read_steps
from capamesh.node.repository.triton.message import Message
from capamesh.node.repository.triton.queue_policies import QueueConfig, read_queue
from capamesh.node.repository.triton.sequence_batching import (
    SEQUENCE_BATCHING,
    SequenceConfig,
    read_sequences,
)
from capamesh.node.repository.triton.tensors import (
    read_datatype,
    read_dims,
    read_format,
    read_reshape,
)
from capamesh.protocol.adverts import ImageFormat
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import TensorSpec

ONNX_FILE: Final = "model.onnx"
"""The name of the file where nothing says otherwise; beside it lies the model's external data."""
_MAX_CAPABILITIES: Final = 64  # guess: twice those that NVIDIA has made
_MAX_GROUPS: Final = 64  # guess: one for each device of the largest machines


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The configuration of the file beside a model, in our terms."""

    manifest: Manifest = field(default_factory=Manifest)
    declared: DeclaredIo = field(default_factory=DeclaredIo)
    notes: tuple[str, ...] = ()
    """The notes on what was ignored and why, for the operator; a line each."""
    onnx_file: str = ONNX_FILE
    """The path of the file in a version's folder; with `/` it stays inside."""
    files_by_capability: tuple[tuple[str, str], ...] = ()
    """(a GPU's compute capability as "8.6", the file for it instead)."""

    label_files: tuple[tuple[str, str], ...] = ()
    """(an output, the path in the model's folder of the file that names its classes)."""

    def file_for(self, compute_capability: str) -> str:
        """Return the ONNX file for a device of `compute_capability`, "" for one that has none."""
        return dict(self.files_by_capability).get(compute_capability, self.onnx_file)


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
    # protobuf is loaded where there is such a file, and nowhere else
    from capamesh.node.repository.triton.text import read_text  # noqa: PLC0415

    config = _Reader(model).config(read_text(text, file))
    if problem := rules_problem(config.manifest.rules, model):
        raise ModelInvalid(f"{file}: as rules of ours it says {problem}")
    return config


class _Reader:
    """One pass over a file; gathers the notes."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._notes: list[str] = []

    def config(self, top: Message) -> ModelConfig:
        self._note_ignored(top, "", triton.TOP_IGNORED)
        self._check_names(top)
        has_max_rows = "max_batch_size" in top
        max_rows = top.integer("max_batch_size", 0, MAX_ROWS)
        sequences = self._sequences(top, has_batch_axis=max_rows > 0)
        declared = self._declared(top, sequences.rules, has_batch_axis=max_rows > 0)
        steps = read_steps(top, declared)
        if (ensemble := top.message(ENSEMBLE)) is not None:
            self._note_ignored(ensemble, f"{ENSEMBLE}.", triton.ENSEMBLE_IGNORED)
        batching, queue = self._batching(top, max_rows, sequences, is_pipeline=bool(steps))
        if not has_max_rows and "dynamic_batching" not in top:
            # Triton completes a file without the field from the model; so does the loader.
            batching = BatchingRules(max_delay_us=batching.max_delay_us)
        instances, providers = self._instances(top)
        if steps and "instance_group" in top:
            raise top.refused(
                "instance_group",
                "an ensemble runs nowhere itself; say it in the configs of its models",
            )
        rules = Rules(
            batching=batching,
            sequence=sequences.rules,
            queue=queue.rules,
            steps=steps,
            warm_up=self._warm_up(top, max_rows),
            versions=_versions(top),
            instances=instances,
            is_idempotent=not sequences.rules.states,
        )
        manifest = Manifest(providers=providers, max_queue=queue.max_queue or None, rules=rules)
        return ModelConfig(
            manifest,
            declared,
            tuple(self._notes),
            _default_file(top),
            _files_by_capability(top),
            _label_files(top),
        )

    def _note_ignored(self, fields: Message, where: str, ignored: dict[str, str]) -> None:
        self._notes += [
            f"{where}{name} is ignored: {reason}"
            for name, reason in ignored.items()
            if name in fields
        ]

    def _check_names(self, top: Message) -> None:
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
        policy = top.message("model_transaction_policy")
        if policy is not None and policy.flag("decoupled"):
            raise policy.refused(
                "decoupled", "ONNX Runtime gives one answer to a request; remove it"
            )

    def _sequences(self, top: Message, *, has_batch_axis: bool) -> SequenceConfig:
        """Return how sequences are kept; without rules where a request does not depend on those before it."""
        shown = frozenset(
            one.text("name", MAX_NAME_CHARS) for one in top.messages("output", MAX_NAMES)
        )
        config = read_sequences(top, has_batch_axis=has_batch_axis, shown=shown)
        if config is None:
            return SequenceConfig(SequenceRules())
        for name in ("dynamic_batching", ENSEMBLE):
            if name in top:
                raise top.refused(SEQUENCE_BATCHING, f"excludes {name}; remove one of the two")
        self._notes += config.notes
        return config

    def _declared(
        self, top: Message, sequence: SequenceRules, *, has_batch_axis: bool
    ) -> DeclaredIo:
        inputs = top.messages("input", MAX_NAMES)
        outputs = top.messages("output", MAX_NAMES)
        declared = DeclaredIo(
            self._tensors(inputs, "input"),
            self._tensors(outputs, "output"),
            has_batch_axis=has_batch_axis,
            optional=_names_with(inputs, "optional"),
            flattened=_names_with(inputs, "allow_ragged_batch") if has_batch_axis else frozenset(),
            reshaped_inputs=_reshaped(inputs, has_batch_axis=has_batch_axis),
            reshaped_outputs=_reshaped(outputs, has_batch_axis=has_batch_axis),
            formats=_formats(inputs),
            filled_in=sequence.inputs,
        )
        if both := sorted(declared.filled_in & {spec.name for spec in declared.inputs}):
            raise top.refused(
                "input", f"{both[0]!r} is filled in by sequence_batching; remove it here"
            )
        self._notes += [
            f"input {name!r}: optional is ignored: requests give every input that the model needs"
            for name in sorted(declared.optional)
        ]
        return declared

    def _tensors(self, tensors: list[Message], side: str) -> tuple[TensorSpec, ...]:
        """Return the declared inputs or outputs, as `side` says."""
        specs: dict[str, TensorSpec] = {}
        for tensor in tensors:
            name = tensor.text("name", MAX_NAME_CHARS)
            if not name or name in specs:
                raise tensor.refused("name", f"{name!r} is empty or there twice")
            self._note_ignored(tensor, f"{side} {name!r}: ", triton.TENSOR_IGNORED)
            if tensor.flag("is_shape_tensor"):
                raise tensor.refused("is_shape_tensor", "it belongs to TensorRT; remove it")
            if tensor.flag("allow_ragged_batch"):
                self._notes.append(
                    f"input {name!r}: allow_ragged_batch is ignored: requests of different shapes run "
                    "apart; [[batching.ragged]] in capamesh.toml pads them to one"
                )
            specs[name] = TensorSpec(name, read_datatype(tensor), read_dims(tensor, low=-1))
        return tuple(specs.values())

    def _batching(
        self, top: Message, max_rows: int, sequences: SequenceConfig, *, is_pipeline: bool
    ) -> tuple[BatchingRules, QueueConfig]:
        """Return how requests are put together, and how they wait."""
        fields = top.message("dynamic_batching")
        if fields is None:
            # Without it Triton lets every request run alone; an ensemble's models batch themselves, and so do
            # sequences, of which Triton puts those of a batch together.
            is_found_out = is_pipeline or bool(sequences.rules.controls or sequences.rules.states)
            batching = BatchingRules(
                is_enabled=None if is_found_out and max_rows else False,
                max_rows=max_rows or None,
                max_delay_us=sequences.max_delay_us,
            )
            return batching, QueueConfig(QueueRules(), 0)
        if is_pipeline:
            raise top.refused("dynamic_batching", f"excludes {ENSEMBLE}; remove one of the two")
        self._note_ignored(fields, "dynamic_batching.", triton.BATCHING_IGNORED)
        delay_us = fields.integer("max_queue_delay_microseconds", 0, MAX_DELAY_US)
        queue = read_queue(fields)
        self._notes += queue.notes
        if not max_rows:
            self._notes.append(
                "dynamic_batching: requests run alone, for max_batch_size is 0 or missing"
            )
        batching = BatchingRules(
            is_enabled=max_rows > 1, max_rows=max_rows or None, max_delay_us=delay_us
        )
        return batching, queue

    def _instances(self, top: Message) -> tuple[int, tuple[str, ...]]:
        """Return how many instances a device has, 0 where nothing says it, and the providers that may run them."""
        groups = top.messages("instance_group", _MAX_GROUPS)
        counts: list[int] = []
        wanted: set[tuple[str, ...]] = set()
        for index, group in enumerate(groups):
            self._note_ignored(group, f"instance_group[{index}].", triton.GROUP_IGNORED)
            if group.flag("passive"):
                raise group.refused("passive", "instances that take no requests are of no use here")
            counts.append(group.integer("count", 0, MAX_INSTANCES) or 1)
            wanted.add(group.choice("kind", triton.KINDS, ()))
        if len(groups) > 1:
            self._notes.append(
                f"instance_group: of {len(groups)} groups the largest count is taken for every device"
            )
        providers = wanted.pop() if len(wanted) == 1 else ()
        return max(counts, default=0), providers

    def _warm_up(self, top: Message, max_rows: int) -> tuple[WarmUp, ...]:
        return tuple(
            self._one_warm_up(fields, index, max_rows)
            for index, fields in enumerate(top.messages("model_warmup", MAX_WARM_UPS))
        )

    def _one_warm_up(self, fields: Message, index: int, max_rows: int) -> WarmUp:
        rows = fields.integer("batch_size", 0, max(max_rows, 1)) or 1
        shapes: list[tuple[str, tuple[int, ...]]] = []
        from_files: list[str] = []
        for name, entry in fields.entries("inputs", MAX_NAMES, MAX_NAME_CHARS):
            value = entry.message("value")
            if value is None:
                raise entry.refused("value", "is missing; add data_type, dims and zero_data")
            if "input_data_file" in value:
                from_files.append(name)
            read_datatype(value)  # the model knows it; it must be one
            dims = read_dims(value, low=1)
            shapes.append((name, (rows, *dims) if max_rows else dims))
        self._notes += [
            f"model_warmup[{index}]: input_data_file of {name!r} is not read: it is run with generated data, "
            "if that runs; [[warm_up]] in capamesh.toml takes .npy files"
            for name in from_files
        ]
        count = fields.integer("count", 0, MAX_WARM_UP_COUNT) or 1
        return WarmUp(tuple(shapes), count=count, must_run=not from_files)


def _names_with(tensors: list[Message], flag: str) -> frozenset[str]:
    """Return the names of the tensors that say `flag`."""
    return frozenset(tensor.text("name", MAX_NAME_CHARS) for tensor in tensors if tensor.flag(flag))


def _formats(inputs: list[Message]) -> tuple[tuple[str, ImageFormat], ...]:
    """Return the inputs that are pictures."""
    found = (
        (one.text("name", MAX_NAME_CHARS), read_format(one, read_dims(one, low=-1)))
        for one in inputs
    )
    return tuple((name, each) for name, each in found if each is not ImageFormat.NONE)


def _reshaped(tensors: list[Message], *, has_batch_axis: bool) -> tuple[Reshape, ...]:
    """Return those of the tensors that the model has in another shape."""
    reshapes = [
        read_reshape(
            tensor,
            tensor.text("name", MAX_NAME_CHARS),
            read_dims(tensor, low=-1),
            has_batch_axis=has_batch_axis,
        )
        for tensor in tensors
    ]
    return tuple(reshape for reshape in reshapes if reshape is not None)


def _default_file(top: Message) -> str:
    """Return where a version's folder has its ONNX file."""
    name = "default_model_filename"
    file = top.text(name, MAX_NAME_CHARS)
    return _inside(top, name, file) if file else ONNX_FILE


def _files_by_capability(top: Message) -> tuple[tuple[str, str], ...]:
    """Return which file is for which GPUs, by their compute capability."""
    name = "cc_model_filenames"
    return tuple(
        (key, _inside(top, name, entry.text("value", MAX_NAME_CHARS)))
        for key, entry in top.entries(name, _MAX_CAPABILITIES, MAX_NAME_CHARS)
    )


def _label_files(top: Message) -> tuple[tuple[str, str], ...]:
    """Return for each output that has one the file with its labels."""
    name = "label_filename"
    files = [
        (output, output.text(name, MAX_NAME_CHARS)) for output in top.messages("output", MAX_NAMES)
    ]
    return tuple(
        (output.text("name", MAX_NAME_CHARS), _inside(output, name, file, "model's"))
        for output, file in files
        if file
    )


def _inside(top: Message, name: str, file: str, whose: str = "version's") -> str:
    """Return the path `file` of the field `name`, which stays in `whose` folder; else raise ModelInvalid."""
    try:
        path = checked_location(file)
    except ModelInvalid as exc:
        raise top.refused(name, f"{file!r} does not stay in the {whose} folder") from exc
    if not path.name:
        raise top.refused(name, f"{file!r} names no file")
    return path.as_posix()


def _versions(top: Message) -> VersionPolicy:
    latest = VersionPolicy(VersionChoice.LATEST)
    policy = top.message("version_policy")
    if policy is None:
        return latest
    given = [choice for choice in VersionChoice if choice in policy]
    if len(given) > 1:
        raise top.refused("version_policy", f"says {' and '.join(given)}; choose one")
    if fields := policy.message(VersionChoice.LATEST):
        count = fields.integer("num_versions", 0, MAX_VERSIONS) or 1
        return VersionPolicy(VersionChoice.LATEST, count=count)
    if policy.message(VersionChoice.ALL):
        return VersionPolicy(VersionChoice.ALL)
    if fields := policy.message(VersionChoice.SPECIFIC):
        versions = fields.integers("versions", 1, MAX_VERSION, MAX_VERSIONS)
        if not versions:
            raise fields.refused("versions", "is empty; name at least one")
        return VersionPolicy(VersionChoice.SPECIFIC, versions=tuple(sorted(set(versions))))
    return latest
