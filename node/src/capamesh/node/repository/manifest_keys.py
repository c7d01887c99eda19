"""The keys of a model's `capamesh.toml`, and how they become rules. Pure.

`make reference` makes `manifest.schema.json` of them, whose descriptions are the docstrings here. Whether the rules agree
with each other, `rule_checks` says.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from typing_extensions import override

from capamesh.node.repository.limits import (
    MAX_AXIS,
    MAX_BUCKETS,
    MAX_DELAY_US,
    MAX_DESCRIPTION_CHARS,
    MAX_DIM,
    MAX_FILE_NAME_CHARS,
    MAX_IDLE_S,
    MAX_INSTANCES,
    MAX_LOOP_BYTES,
    MAX_LOOP_STEPS,
    MAX_NAME_CHARS,
    MAX_NAMES,
    MAX_PAD,
    MAX_PROVIDER_CHARS,
    MAX_PROVIDERS,
    MAX_QUEUE_LIMIT,
    MAX_RAGGED,
    MAX_ROWS,
    MAX_STATE_BYTES,
    MAX_STATES,
    MAX_STEPS,
    MAX_VERSION,
    MAX_VERSIONS,
    MAX_WARM_UP_COUNT,
    MAX_WARM_UPS,
    MIN_IDLE_S,
)
from capamesh.node.repository.rule_checks import MODEL_NAME, NPY_NAME
from capamesh.node.repository.rules import (
    BatchingRules,
    LoopRules,
    PipelineStep,
    RaggedInput,
    Rules,
    SequenceRules,
    StateTensor,
    VersionChoice,
    VersionPolicy,
    WarmUp,
)
from capamesh.node.repository.task_keys import (
    EmbeddingTable,
    FileTable,
    GenerationTable,
    ImageTable,
    TextTable,
)
from capamesh.node.repository.task_rules import ImageRules, TaskRules
from capamesh.protocol.schema import DISTINCT, Meta, Table, field, meaning
from capamesh.protocol.tasks import Task
from capamesh.protocol.windows import (
    MAX_CONSTANT,
    MAX_CONSTANTS,
    MAX_RATE_HZ,
    MAX_SAMPLES,
    Windows,
)

_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
_Names: TypeAlias = Annotated[dict[_Name, _Name], Meta(min_length=1, max_length=MAX_NAMES)]
_Size: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_DIM)]
_Shape: TypeAlias = Annotated[tuple[_Size, ...], Meta(max_length=MAX_AXIS + 1)]
_Version: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_VERSION)]
_ONE_KEY: Final = Meta(extra_json_schema={"minProperties": 1, "maxProperties": 1})
_BY_INPUT: Final = Meta(max_length=MAX_NAMES)
_TEXT_TASKS: Final = (Task.TEXT_EMBEDDING, Task.TEXT_CLASSIFICATION)
_TASKS_OF: Final = {
    "text": _TEXT_TASKS,
    "embedding": (Task.TEXT_EMBEDDING,),
    "image": (Task.IMAGE_CLASSIFICATION,),
    "file": (Task.FILE_TYPE,),
    "generation": (Task.CHAT,),
}
"""The tasks for which a table means something."""
_Provider: TypeAlias = Annotated[
    str,
    Meta(max_length=MAX_PROVIDER_CHARS, pattern=r"^[A-Za-z0-9_]+ExecutionProvider$(?!\n)"),
    meaning(f"a name of at most {MAX_PROVIDER_CHARS} characters, such as 'CUDAExecutionProvider'"),
]
# `rule_checks` checks these two, for it does so for `config.pbtxt` too; editors are told.
_MODEL_NAME: Final = Meta(extra_json_schema={"pattern": f"^{MODEL_NAME.pattern}$"})
_NpyFile: TypeAlias = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_FILE_NAME_CHARS),
    Meta(extra_json_schema={"pattern": f"^{NPY_NAME.pattern}$"}),
]


class RaggedTable(Table, frozen=True):
    """One input; shorter ones are padded at the end."""

    input: _Name
    """The name of the input."""
    axis: Annotated[int, Meta(ge=1, le=MAX_AXIS)] = 1
    """The axis whose length differs; axis 0 is the batch."""
    pad: Annotated[float, Meta(ge=-MAX_PAD, le=MAX_PAD)] = 0.0
    """The value that fills the gap; exact in the input's datatype."""
    buckets: Annotated[tuple[_Size, ...], Meta(max_length=MAX_BUCKETS), DISTINCT] = ()
    """Lengths to pad to, ascending; where none fits, the longest of the batch."""
    mask: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] = ""
    """An input that is 1 where there is data and 0 where there is padding."""
    outputs: Annotated[tuple[_Name, ...], Meta(max_length=MAX_NAMES), DISTINCT] = ()
    """Outputs whose same axis is cut back to the request's own length."""

    def rule(self) -> RaggedInput:
        """Return the rule that the table says."""
        return RaggedInput(self.input, self.axis, self.pad, self.buckets, self.mask, self.outputs)


class BatchingTable(Table, frozen=True):
    """The way in which requests are put together."""

    enabled: bool | None = None
    """True if requests share a run; missing: found out at load, by comparing a batch with its parts."""
    max_rows: Annotated[int, Meta(ge=1, le=MAX_ROWS)] | None = None
    """Rows of a batch and of a request; missing: as the measured profile says."""
    max_delay_us: Annotated[int, Meta(ge=0, le=MAX_DELAY_US)] = 0
    """The time that a request may wait for company while an instance is free."""
    ragged: Annotated[tuple[RaggedTable, ...], Meta(max_length=MAX_RAGGED)] = ()
    """Inputs with an axis whose length differs between requests."""

    def rules(self) -> BatchingRules:
        """Return the rules that the table says."""
        ragged = tuple(each.rule() for each in self.ragged)
        return BatchingRules(self.enabled, self.max_rows, self.max_delay_us, ragged)


class StateTable(Table, frozen=True):
    """One tensor, zero at a sequence's start."""

    input: _Name
    """The input that takes the state."""
    output: _Name
    """The output that gives its next value."""
    axis: Annotated[int, Meta(ge=0, le=MAX_AXIS)] = 0
    """The axis along which the sequences of a batch are stacked."""
    shape: _Shape = ()
    """The shape for one sequence, `axis` included with size 1; missing: the declared input's."""


class SequenceTable(Table, frozen=True):
    """The way in which the sequences of a stateful model are kept."""

    state: Annotated[tuple[StateTable, ...], Meta(max_length=MAX_STATES)]
    """Tensors that stay on the node between the requests of a sequence."""
    idle_s: Annotated[float, Meta(ge=MIN_IDLE_S, le=MAX_IDLE_S)] = SequenceRules().idle_s
    """A sequence that was silent for so many seconds is forgotten."""
    max_bytes: Annotated[int, Meta(ge=1, le=MAX_STATE_BYTES)] = SequenceRules().max_bytes
    """The bytes of all states of the model; the sequence that was silent longest gives way."""

    def rules(self) -> SequenceRules:
        """Return the rules that the table says."""
        states = tuple(
            StateTensor(each.input, each.output, each.axis, each.shape) for each in self.state
        )
        return SequenceRules(states, self.idle_s, self.max_bytes)


class LoopTable(Table, frozen=True, kw_only=True):
    """A model that is run again and again for one request, and answers in parts: one of each step."""

    feedback: _Names
    """The outputs that become inputs of the next step, by the names of these inputs."""
    max_steps: Annotated[int, Meta(ge=1, le=MAX_LOOP_STEPS)]
    """The most steps of one request."""
    stop: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] = ""
    """An output that ends the answer once none of its elements is zero."""
    max_bytes: Annotated[int, Meta(ge=1, le=MAX_LOOP_BYTES)] = LoopRules((), 1).max_bytes
    """The bytes of all parts of one answer; one with more fails."""

    def rules(self) -> LoopRules:
        """Return the rules that the table says."""
        return LoopRules(tuple(self.feedback.items()), self.max_steps, self.stop, self.max_bytes)


class WindowTable(Table, frozen=True):
    """The windows into which a stream of samples is cut, each of which is a request."""

    input: _Name
    """The input whose last axis has a window of samples."""
    samples: Annotated[int, Meta(ge=1, le=MAX_SAMPLES)]
    """The new samples of each window."""
    context: Annotated[int, Meta(ge=0, le=MAX_SAMPLES)] = 0
    """The samples before them, which are the last of the window before; zeros at the beginning."""
    rate_hz: Annotated[int, Meta(ge=0, le=MAX_RATE_HZ)] = 0
    """The samples of a second; 0: nothing is said."""
    constants: Annotated[
        dict[_Name, Annotated[float, Meta(ge=-MAX_CONSTANT, le=MAX_CONSTANT)]],
        Meta(max_length=MAX_CONSTANTS),
    ] = field(default_factory=dict)
    """The values of all other inputs, the same for each window: one element each."""

    def rule(self) -> Windows:
        """Return the rule that the table says."""
        constants = tuple(self.constants.items())
        return Windows(self.input, self.samples, self.context, self.rate_hz, constants)


class WarmUpTable(Table, frozen=True):
    """A request that is run before the model is ready; an input in neither table is generated, of one row."""

    shapes: Annotated[dict[_Name, _Shape], _BY_INPUT] = field(default_factory=dict)
    """The whole shapes of inputs, by their names; their data is generated."""
    files: Annotated[dict[_Name, _NpyFile], _BY_INPUT] = field(default_factory=dict)
    """The .npy files beside the manifest that inputs are read from, by the inputs' names."""
    count: Annotated[int, Meta(ge=1, le=MAX_WARM_UP_COUNT)] = 1
    """The number of times that it is run."""

    def rule(self) -> WarmUp:
        """Return the rule that the table says."""
        return WarmUp(tuple(self.shapes.items()), tuple(self.files.items()), self.count)


class StepTable(Table, frozen=True, kw_only=True):
    """One model of a pipeline."""

    model: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS), _MODEL_NAME]
    """Another model of the node."""
    version: _Version | None = None
    """The model's version; missing: the newest."""
    inputs: _Names
    """The names on the chain of what the model takes, by the names of its inputs."""
    outputs: _Names
    """The names on the chain of what the model gives, by the names of its outputs."""

    def rule(self) -> PipelineStep:
        """Return the rule that the table says."""
        version = "" if self.version is None else str(self.version)
        inputs, outputs = tuple(self.inputs.items()), tuple(self.outputs.items())
        return PipelineStep(self.model, version, inputs, outputs)


class VersionsTable(Table, frozen=True):
    """The versions that are served: the highest numbers, or specific ones."""

    latest: Annotated[int, Meta(ge=1, le=MAX_VERSIONS)] | None = None
    """The number of versions that are served, those with the highest numbers."""
    specific: (
        Annotated[tuple[_Version, ...], Meta(min_length=1, max_length=MAX_VERSIONS), DISTINCT]
        | None
    ) = None
    """The version numbers that are served."""

    @override
    def __post_init__(self) -> None:
        """Refuse a table that says both, or nothing."""
        super().__post_init__()
        if (self.latest is None) == (self.specific is None):
            raise ValueError("latest and specific are alternatives; give one of the two")

    def rule(self) -> VersionPolicy:
        """Return the rule that the table says."""
        if self.latest is not None:
            return VersionPolicy(VersionChoice.LATEST, count=self.latest)
        return VersionPolicy(VersionChoice.SPECIFIC, versions=tuple(sorted(self.specific or ())))


_NOT_OF_CHAT: Final = {"batching": BatchingTable(), "warm_up": (), "window": None}
"""The keys that mean nothing for models that answer token by token, with the values of a manifest that leaves them out."""


class ManifestTable(Table, frozen=True):
    """The manifest of one model. Everything in it is optional."""

    description: Annotated[str, Meta(max_length=MAX_DESCRIPTION_CHARS)] = ""
    """A text for people."""
    providers: Annotated[tuple[_Provider, ...], Meta(max_length=MAX_PROVIDERS), DISTINCT] | None = (
        None
    )
    """ONNX Runtime providers that may run it, best first; missing: what the device suggests."""
    allow_cpu_fallback: bool | None = None
    """True if it may run on the CPU where no wanted provider works; missing: it may not."""
    max_queue: Annotated[int, Meta(ge=1, le=MAX_QUEUE_LIMIT)] | None = None
    """Requests that may wait for it; missing: the node's own setting."""
    instances: Annotated[int, Meta(ge=1, le=MAX_INSTANCES)] | None = None
    """Runs at the same time on one device. Missing: one run of all threads while few wait; on a CPU, when more do, a run
    of one thread on each core, where that was measured to do as much."""
    pinned: bool = False
    """True if it is never unloaded to make room."""
    idempotent: bool | None = None
    """True if a request may be run again elsewhere when its outcome is unknown; missing: if it has no sequence states."""
    deterministic: bool = True
    """False if equal requests have answers that differ, as of a model that draws by chance: no router keeps any."""
    versions: Annotated[
        Literal["all"] | VersionsTable,
        _ONE_KEY,
        meaning("'all', {latest = 2} or {specific = [1, 3]}"),
    ] = "all"
    """The versions that are served."""
    batching: BatchingTable = BatchingTable()
    """The way in which requests are put together."""
    sequence: SequenceTable | None = None
    """The way in which the sequences of a stateful model are kept."""
    loop: LoopTable | None = None
    """The way in which a request is run again and again."""
    window: WindowTable | None = None
    """The windows into which a stream of samples is cut; missing: it takes whole requests alone."""
    warm_up: Annotated[tuple[WarmUpTable, ...], Meta(max_length=MAX_WARM_UPS)] = ()
    """Requests that are run before the model is ready."""
    step: Annotated[tuple[StepTable, ...], Meta(max_length=MAX_STEPS)] = ()
    """The models of a pipeline, in their order."""
    task: (
        Literal[
            "text-embedding", "text-classification", "image-classification", "file-type", "chat"
        ]
        | None
    ) = None
    """The task that the model is for: its node then takes texts, pictures or files and makes its inputs of them; "chat" is of
    models that `capamesh model import-llm` makes."""
    text: TextTable | None = None
    """The way in which texts become tokens."""
    embedding: EmbeddingTable | None = None
    """The way in which the model's output becomes one vector for each text."""
    image: ImageTable | None = None
    """The way in which pictures become a tensor."""
    file: FileTable | None = None
    """The way in which a file becomes a row of numbers."""
    generation: GenerationTable | None = None
    """The way in which answers are generated."""

    @override
    def __post_init__(self) -> None:
        """Refuse keys that exclude each other."""
        super().__post_init__()
        if self.idempotent and self.sequence and self.sequence.state:
            raise ValueError(
                "idempotent: a model with sequence states gives another answer the second time; remove one of the two"
            )
        for key in ("providers", "allow_cpu_fallback") if self.step else ():
            if getattr(self, key) is not None:
                raise ValueError(
                    f"{key}: a pipeline runs on no provider itself; say it in the manifests of its models"
                )
        task = Task(self.task or "")
        for key, tasks in _TASKS_OF.items():
            if getattr(self, key) is not None and task not in tasks:
                raise ValueError(
                    f"{key}: it means something with task = {' or '.join(repr(str(one)) for one in tasks)}; say it or remove"
                    f" [{key}]"
                )
        if task is Task.IMAGE_CLASSIFICATION and self.image is None:
            raise ValueError(
                "task: 'image-classification' needs the width and height of [image]; say them"
            )
        if task is not Task.NONE and self.sequence and self.sequence.state:
            raise ValueError("task: a model with sequence states has none; remove one of the two")
        if task is not Task.NONE and self.loop:
            raise ValueError("task: a model that runs in a loop has none; remove one of the two")
        for key, nothing in _NOT_OF_CHAT.items() if task is Task.CHAT else ():
            if getattr(self, key) != nothing:
                raise ValueError(
                    f"{key}: a model with task = 'chat' takes no tensors, and its node puts tokens together itself; remove it"
                )
        if task in {*_TEXT_TASKS, Task.CHAT} and self.step:
            raise ValueError(
                "task: a pipeline has no folder for a tokenizer; say it in the manifest of its model"
            )

    def task_rules(self) -> TaskRules:
        """Return the rules of what the model is for."""
        return TaskRules(
            Task(self.task or ""),
            (self.text or TextTable()).rules(),
            (self.embedding or EmbeddingTable()).rules(),
            self.image.rules() if self.image else ImageRules(),
            (self.file or FileTable()).rules(),
            (self.generation or GenerationTable()).rules(),
        )

    def rules(self) -> Rules:
        """Return the rules that the manifest says."""
        sequence = self.sequence.rules() if self.sequence else SequenceRules()
        return Rules(
            batching=self.batching.rules(),
            sequence=sequence,
            loop=self.loop.rules() if self.loop else None,
            steps=tuple(each.rule() for each in self.step),
            warm_up=tuple(each.rule() for each in self.warm_up),
            versions=VersionPolicy() if self.versions == "all" else self.versions.rule(),
            instances=self.instances or 0,
            windows=None if self.window is None else self.window.rule(),
            is_pinned=self.pinned,
            is_idempotent=not sequence.states if self.idempotent is None else self.idempotent,
            is_deterministic=self.deterministic,
        )
