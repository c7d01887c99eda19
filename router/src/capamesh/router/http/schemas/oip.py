"""The JSON of the Open Inference Protocol v2 and of Triton's extensions, as types. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from capamesh.protocol.oip import IndexState
from capamesh.protocol.schema import Meta
from capamesh.protocol.tensors import Datatype

Count = Annotated[int, Meta(ge=0)]
Priority = Annotated[int, Meta(ge=0, le=255)]
Timeout = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Error(TypedDict):
    """Whatever went wrong."""

    error: str
    """The reason, what is allowed, and what to do: a sentence for people."""
    code: NotRequired[str]
    """The same in one word, which the header `X-Capamesh-Error` has, too."""


class Server(TypedDict):
    """The server."""

    name: str
    version: str
    """The version of the program."""
    extensions: list[str]
    """The extensions of the protocol that it has."""


class Live(TypedDict):
    """The answer of a process that lives."""

    live: bool
    """The value is always true."""


class Ready(TypedDict):
    """The readiness of a router."""

    ready: bool
    """True if some model can be run."""


class ModelReady(TypedDict):
    """The readiness of a model."""

    name: str
    """The model's name."""
    ready: bool
    """True if it can be run."""


class TensorMetadata(TypedDict):
    """An input or output of a model."""

    name: str
    datatype: Datatype
    shape: list[int]
    """The size of each dimension; -1: any."""


class SampleWindow(TypedDict):
    """The window into which samples of a stream are cut."""

    input: str
    """The input that has them."""
    samples: int
    """The new samples of each window."""
    context: int
    """The samples before them, which the router adds."""
    rate_hz: int
    """The samples of a second; 0: nothing is said."""
    constants: dict[str, float]
    """The values of the other inputs, by name."""


class ModelMetadata(TypedDict):
    """The inputs and outputs of a model."""

    name: str
    versions: list[str]
    """The versions that nodes have ready, or the one that was asked for."""
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    window: NotRequired[SampleWindow]
    """Said of a model that takes a stream of samples."""


class ConfigTensor(TypedDict):
    """An input or output in a configuration."""

    name: str
    data_type: str
    """Triton's name of its datatype."""
    dims: list[int]
    """The size of each dimension but that of rows; -1: any."""
    format: NotRequired[str]
    """Said of an input: `FORMAT_NCHW` or `FORMAT_NHWC` for a picture, else `FORMAT_NONE`."""
    label_filename: NotRequired[str]
    """Said of an output whose classes have names."""


class TransactionPolicy(TypedDict):
    """The way in which answers come."""

    decoupled: bool
    """True if a request may have other than one answer."""


class ModelConfig(TypedDict):
    """A model's configuration as Triton words it."""

    name: str
    platform: str
    backend: str
    max_batch_size: Count
    """The most rows of a request; 0: the first dimension does not count rows. Where nothing bounds them it is 1,024, and more are taken, too."""
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    model_transaction_policy: TransactionPolicy
    sequence_batching: NotRequired[dict[str, Any]]
    """Said of a model whose requests belong to sequences."""


class Duration(TypedDict):
    """The number of times that something was done, and the time that it took."""

    count: Count
    ns: Count
    """Nanoseconds, of all together."""


class InferenceStatistics(TypedDict):
    """The parts of what requests took."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class VersionStatistics(TypedDict):
    """The statistics of one version of a model, at this router."""

    name: str
    version: str
    last_inference: Count
    """The time of the newest answer, in milliseconds since 1970; 0: there was none."""
    inference_count: Count
    """The rows that were answered."""
    execution_count: Count
    inference_stats: InferenceStatistics
    batch_stats: list[dict[str, Any]]


class Statistics(TypedDict):
    """The statistics of versions of models."""

    model_stats: list[VersionStatistics]


class IndexRequest(TypedDict):
    """The choice of models for the index."""

    ready: NotRequired[bool]
    """True if only those that can be run are listed."""


class IndexEntry(TypedDict):
    """One version of a model in the fleet."""

    name: str
    version: str
    state: IndexState
    reason: str
    """The reason for that state; empty if there is nothing to say."""


class Parameters(TypedDict):
    """The parameters of a request that mean something here; others may stand beside them."""

    timeout: NotRequired[Timeout]
    """The microseconds after which the answer is of no use any more."""
    priority: NotRequired[Priority]
    """The urgency, from 1, the most urgent, to 255; 0: left out."""
    sequence_id: NotRequired[
        Annotated[int, Meta(ge=0, le=2**63 - 1)] | Annotated[str, Meta(max_length=128)]
    ]
    """The sequence of a stateful model that the request belongs to."""
    sequence_start: NotRequired[bool]
    sequence_end: NotRequired[bool]
    binary_data_output: NotRequired[bool]
    """True if outputs come as raw bytes where they do not say otherwise."""
    non_finite_output: NotRequired[Literal["error", "text"]]
    """The way in which NaN and infinities are answered in JSON."""


class InputParameters(TypedDict):
    """The parameters of an input."""

    binary_data_size: NotRequired[Count]
    """The bytes of its raw data, behind the JSON."""


class Input(TypedDict):
    """One input of a request."""

    name: str
    datatype: Datatype
    shape: list[Count]
    data: NotRequired[list[Any]]
    """The elements in row-major order, flat or nested; left out where raw bytes follow the JSON."""
    parameters: NotRequired[InputParameters]


class OutputParameters(TypedDict):
    """The parameters of a requested output."""

    classification: NotRequired[Annotated[int, Meta(ge=0, le=8192)]]
    """The number of largest scores of each row that are wanted, as texts; 0: left out."""
    binary_data: NotRequired[bool]
    """True if it comes as raw bytes."""


class RequestedOutput(TypedDict):
    """An output that is wanted."""

    name: str
    parameters: NotRequired[OutputParameters]


class InferRequest(TypedDict):
    """An inference request."""

    id: NotRequired[str]
    """A text of the client's own, which the answer repeats."""
    inputs: list[Input]
    outputs: NotRequired[list[RequestedOutput]]
    """The outputs that are wanted; left out: all."""
    parameters: NotRequired[Parameters]


class Output(TypedDict):
    """One output of an answer."""

    name: str
    datatype: Datatype
    shape: list[Count]
    data: NotRequired[list[Any]]
    """The elements in row-major order, flat; left out where raw bytes follow the JSON."""
    parameters: NotRequired[InputParameters]


class InferAnswer(TypedDict):
    """The answer to an inference request."""

    model_name: str
    model_version: str
    """The version that ran."""
    id: NotRequired[str]
    """The request's own."""
    outputs: list[Output]


Generate = dict[str, Any]
"""The body of a request of the generate extension, and of its answer: a value for each tensor, by its name, and some of the protocol's
own words beside them."""
