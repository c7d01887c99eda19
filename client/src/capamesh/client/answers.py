"""The answers of a router as values: models, metadata, failures. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple, cast

import numpy.typing as npt

from capamesh.client.class_scores import NO_SCORES, ClassScore
from capamesh.client.rest import AsyncRest, SyncRest
from capamesh.client.timings import NOT_TIMED, Timings
from capamesh.protocol.errors import (
    CapameshError,
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    LinkLost,
    Overloaded,
    PeerError,
    ProtocolViolation,
    TooLarge,
    from_wire,
)
from capamesh.protocol.oip import HEADER_LENGTH_NAME, NO_PARAMETERS, Parameters
from capamesh.protocol.tensors import Datatype, TensorSpec

_SHOWN_CHARS = 300
"""The characters that a message repeats of a body that is no error of ours (guess: a proxy's title and first line)."""

_MOST_DIGITS: Final = 9
"""The most digits of `Retry-After` and `Age`: 30 years."""
_BY_STATUS: dict[int, type[CapameshError]] = {
    400: InvalidRequest,
    413: TooLarge,
    429: Overloaded,
    502: LinkLost,
    503: Overloaded,
    504: DeadlineExceeded,
}
"""The errors for answers that a proxy gave in the router's place, by status."""
_TITLE = re.compile(r"<title>([^<]+)</title>", re.IGNORECASE)
"""Matches what a proxy's page of HTML says in short."""
_HEADER_LENGTH: Final = HEADER_LENGTH_NAME.lower()
_NO_KEY = (
    "; a proxy in front of the router asks for a key: give it as headers= of the client, as --header "
    "'Authorization: Bearer KEY', or by the variable CAPAMESH_HEADERS"
)
_WHAT_TO_DO = {401: _NO_KEY, 403: _NO_KEY}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    body: bytes | memoryview
    error_code: str | None = None
    header_length: str | None = None
    retry_after: str | None = None
    """The HTTP header of that name: whole seconds, or from a proxy a date."""
    node: str | None = None
    """The peer id of the node that ran the request."""
    explanation: str | None = None
    """JSON that says why that one did."""
    date: str | None = None
    """The HTTP header of that name: the time at the server."""
    timings: Timings = NOT_TIMED
    cache: str | None = None
    """The reason why the answer was not run for its request, in a word."""
    age: str | None = None
    """The HTTP header of that name: whole seconds since it was run."""
    upload_offset: str | None = None
    """The HTTP header of that name: the bytes that the router has of an upload."""
    next_row: str | None = None
    """The row from which to ask for a job's results next."""
    resumed: str | None = None
    """The times that another node went on with a generated answer, for one was lost."""
    rest: SyncRest | AsyncRest | None = None
    """The body, where it is read as it comes."""

    @classmethod
    def of(
        cls,
        status: int,
        body: memoryview,
        header: Callable[[str], str | None],
        timings: Timings = NOT_TIMED,
        rest: SyncRest | AsyncRest | None = None,
    ) -> Answer:
        """Return an answer with what its headers say; `header` returns the value of the one whose name it is given in small letters."""
        is_ok = status == 200  # an error has other headers
        return cls(
            status,
            body,
            None if is_ok else header("x-capamesh-error"),
            header(_HEADER_LENGTH),
            None if is_ok else header("retry-after"),
            header("x-capamesh-node"),
            header("x-capamesh-explanation"),
            None if is_ok else header("date"),
            timings,
            header("x-capamesh-cache"),
            header("age"),
            header("upload-offset"),
            header("capamesh-next-row"),
            header("x-capamesh-resumed"),
            rest,
        )


class Outputs(dict[str, npt.NDArray[Any]]):
    """The outputs of one inference, arrays by name, with who gave them; the arrays are the caller's own."""

    __slots__ = (
        "age_s",
        "cache",
        "classes",
        "explanation",
        "id",
        "model",
        "node",
        "parameters",
        "router",
        "timings",
        "version",
    )

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[Any]],
        *,
        node: str = "",
        version: str = "",
        router: str = "",
        explanation: dict[str, Any] | None = None,
        classes: Mapping[str, list[list[ClassScore]]] = NO_SCORES,
        id: str = "",  # noqa: A002 - the protocol's own word
        model: str = "",
        parameters: Parameters = NO_PARAMETERS,
        timings: Timings = NOT_TIMED,
        cache: str = "",
        age_s: float = 0.0,
    ) -> None:
        super().__init__(arrays)
        self.node = node
        """The peer id of the node that ran the request; empty: the router did not say."""
        self.version = version
        """The model's version that was run."""
        self.router = router
        """The URL of the router that answered."""
        self.explanation = explanation
        """Among whom and why the node was chosen; None where `RoutingOptions.is_explained` did not ask for it."""
        self.classes = dict(classes)
        """The largest scores of the outputs of which `classes` were asked for, by the output's name: a list for each row."""
        self.id = id
        """The text that the request was marked with; empty: none."""
        self.model = model
        """The model's name, as the router says it."""
        self.parameters = dict(parameters)
        """The parameters of the answer, which few models have."""
        self.timings = timings
        """The seconds that the answer took, and how often the request was sent."""
        self.cache = cache
        """`hit` if the router had kept the answer, `repeated` if it is that to the request's idempotency key; empty: it was run."""
        self.age_s = age_s
        """The whole seconds since a kept answer was run; 0 for one that was run now."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model version of the fleet."""

    name: str
    """The model's name."""
    version: str
    """The version's name."""
    state: str
    """READY, LOADING, UNLOADING or UNAVAILABLE."""
    reason: str
    """The reason why it is not ready; empty when it is."""

    @property
    def is_ready(self) -> bool:
        """Return whether a node can run the model now."""
        return self.state == "READY"


@dataclass(frozen=True, slots=True)
class SampleWindow:
    """The window of a model that takes a stream of samples."""

    input: str
    """The input that has them."""
    samples: int
    """The new samples of each window."""
    context: int
    """The samples before them, which the router adds."""
    rate_hz: int
    """The samples of a second; 0: the model's manifest does not say."""
    constants: Mapping[str, float] = field(default_factory=dict[str, float])
    """The values of the other inputs, by name."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model's tensors; -1 in a shape stands for any size."""

    name: str
    """The model's name."""
    versions: tuple[str, ...]
    """The versions that nodes host."""
    platform: str
    """The runtime of the model in the protocol's words, such as `onnxruntime_onnx`."""
    inputs: tuple[TensorSpec, ...]
    """The inputs that a request must have."""
    outputs: tuple[TensorSpec, ...]
    """The outputs that a request may ask for."""
    window: SampleWindow | None = None
    """The window into which samples of a stream are cut for it; None: it takes none."""


class HeldList(NamedTuple):
    """The revocation list that a router holds and enforces."""

    version: int
    """The version of the list, which its owner counts."""
    is_kept: bool
    """True if it is on the router's disk; where it is not, a restart loses it until another member tells of it."""


def failure_of(answer: Answer, url: str) -> CapameshError:
    """Return the error that an answer with a status other than 200 stands for."""
    message = _error_text(answer.body)
    retry_after_s = _retry_after_s(answer)
    if answer.error_code is not None and message is not None:
        error = from_wire(answer.error_code, message, retry_after_s)
        error.retry_after_s = retry_after_s
        return error
    kind = _BY_STATUS.get(answer.status)
    if kind is None:
        kind = ClientError if 400 <= answer.status < 500 else PeerError
    what_to_do = ""
    if message is None:  # a proxy's, not a router's
        message = bytes(answer.body[:_SHOWN_CHARS]).decode("utf-8", "replace").strip()
        title = _TITLE.search(message)
        message = title[1] if title else message
        what_to_do = _WHAT_TO_DO.get(answer.status, "")
    said = " ".join(message.split()) or "nothing"
    text = f"{url} answered with HTTP status {answer.status}: {said}{what_to_do}"
    return Overloaded(text, retry_after_s) if kind is Overloaded else kind(text)


def _retry_after_s(answer: Answer) -> float:
    """Return in how many seconds an answer says to come again, 0 where it does not; a date counts from the answer's own."""
    hint = answer.retry_after or ""
    if _is_seconds(hint):
        return float(hint)
    try:
        until = parsedate_to_datetime(hint) - parsedate_to_datetime(answer.date or "")
    except (TypeError, ValueError, OverflowError):  # no dates, or one without a zone
        return 0.0
    return max(0.0, until.total_seconds())


def age_s_of(answer: Answer) -> float:
    """Return the seconds since a kept answer was run, 0 where that is not said: an `Age` alone is a proxy's."""
    age = answer.age or ""
    return float(age) if answer.cache and _is_seconds(age) else 0.0


def _is_seconds(text: str) -> bool:
    """Return whether a header's value is whole seconds."""
    return text.isdecimal() and text.isascii() and len(text) <= _MOST_DIGITS


def read_json(answer: Answer) -> object:
    """Return the JSON of an answer; raise `ProtocolViolation` when it is none."""
    try:
        return cast(object, json.loads(bytes(answer.body)))
    except (ValueError, RecursionError) as exc:
        raise ProtocolViolation(f"the answer is not JSON: {exc}; is this a router's URL?") from exc


def read_explanation(answer: Answer) -> dict[str, Any] | None:
    """Return why a node was chosen, None where the router did not say; raise `ProtocolViolation` for what is no JSON."""
    if answer.explanation is None:
        return None
    what = "an explanation"
    return _fields(
        read_json(Answer(answer.status, answer.explanation.encode("utf-8", "replace"))), what
    )


def read_models(answer: Answer) -> list[ModelEntry]:
    """Return the repository index."""
    what = "the repository index"
    entries = [_fields(entry, what) for entry in _items(read_json(answer), what)]
    return [
        ModelEntry(
            _text(entry, "name", what),
            _text(entry, "version", what, ""),
            _text(entry, "state", what, ""),
            _text(entry, "reason", what, ""),
        )
        for entry in entries
    ]


def read_metadata(answer: Answer) -> ModelMetadata:
    """Return a model's metadata."""
    what = "a model's metadata"
    fields = _fields(read_json(answer), what)
    return ModelMetadata(
        _text(fields, "name", what),
        tuple(map(str, _items(fields.get("versions", []), what))),
        _text(fields, "platform", what, ""),
        tuple(_spec(entry, what) for entry in _items(fields.get("inputs"), what)),
        tuple(_spec(entry, what) for entry in _items(fields.get("outputs"), what)),
        None if fields.get("window") is None else _window(fields["window"]),
    )


def read_nodes(answer: Answer) -> list[dict[str, Any]]:
    """Return the nodes of the fleet as the router words them."""
    what = "the list of nodes"
    nodes = _items(_fields(read_json(answer), what).get("nodes"), what)
    return [_fields(node, what) for node in nodes]


def read_held_list(answer: Answer) -> HeldList:
    """Return which revocation list the router holds now."""
    what = "a revocation list's version"
    fields = _fields(read_json(answer), what)
    version = fields.get("version")
    if not isinstance(version, int):
        raise _unexpected(what, version)
    return HeldList(version, fields.get("is_kept") is not False)


def _window(value: object) -> SampleWindow:
    fields = _fields(value, "a window")
    counts = [fields.get(name, 0) for name in ("samples", "context", "rate_hz")]
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not counts[0]:
        raise _unexpected("a window", value)
    constants = cast("dict[str, float]", fields.get("constants", {}))
    samples, context, rate_hz = counts
    return SampleWindow(_text(fields, "input", "a window"), samples, context, rate_hz, constants)


def _spec(value: object, what: str) -> TensorSpec:
    fields = _fields(value, what)
    dims = _items(fields.get("shape"), what)
    shape = tuple(dim for dim in dims if isinstance(dim, int))
    datatype = Datatype.of_name(_text(fields, "datatype", what))
    if datatype is None or len(shape) != len(dims):
        raise _unexpected(what, value)
    return TensorSpec(_text(fields, "name", what), datatype, shape)


def _fields(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unexpected(what, value)
    return cast("dict[str, Any]", value)


def _items(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise _unexpected(what, value)
    return cast("list[object]", value)


def _text(fields: dict[str, Any], key: str, what: str, default: str | None = None) -> str:
    value = fields.get(key, default)
    if not isinstance(value, str):
        raise _unexpected(what, fields)
    return value


def _error_text(body: bytes | memoryview) -> str | None:
    try:
        value = cast(object, json.loads(bytes(body)))
    except (ValueError, RecursionError):
        return None
    message = cast("dict[str, object]", value).get("error") if isinstance(value, dict) else None
    if isinstance(message, dict):  # as routes of OpenAI's have it
        message = cast("dict[str, object]", message).get("message")
    return message if isinstance(message, str) else None


def _unexpected(what: str, value: object) -> ProtocolViolation:
    shown = repr(value)[:_SHOWN_CHARS]
    return ProtocolViolation(f"the answer is not {what}: {shown}; is this a router's URL?")
