"""The questions of a client to a router, as values that either client can send. Pure but for an error of `ssl`."""

from __future__ import annotations

import dataclasses
import math
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import numpy as np

from capamesh.client.answers import (
    Answer,
    HeldList,
    ModelEntry,
    ModelMetadata,
    Outputs,
    age_s_of,
    failure_of,
    read_explanation,
    read_held_list,
    read_metadata,
    read_models,
    read_nodes,
)
from capamesh.client.arrays import NO_SPECS, InputValue, arrays_of, named, tensors_of
from capamesh.client.class_scores import NO_CLASSES, checked_classes, read_classes
from capamesh.client.dlpack import is_dlpack
from capamesh.client.routing_options import ANYWHERE, RoutingOptions
from capamesh.protocol.errors import DeadlineExceeded, InvalidRequest, LinkLost, ProtocolViolation
from capamesh.protocol.oip import (
    HEADER_LENGTH_NAME,
    NO_PARAMETERS,
    Parameters,
    RequestedOutput,
    decode_response,
    encode_request,
    parse_header_length,
)
from capamesh.protocol.tensors import DEFAULT_LIMITS, Limits, TensorSpec

T = TypeVar("T")

CONNECT_LIMIT_S = 5.0
"""The longest time that a connection to a router takes: a few lost packets (guess)."""
UNASKED_WAIT_S = 60.0
"""The longest wait where the caller names no time: a router ends the request after 30 s by default, this ends a dead router."""
GRACE_S = 1.0
"""Seconds by which the client gives up later than the router, so that the router's reason arrives (guess)."""
MOST_SILENCE_S = 120.0
"""Seconds without a byte after which a router that has begun a stream is taken for lost (guess: a prompt that another node reads again)."""
PAGE_WAIT_S = 10.0
"""The longest wait for a page that a router answers from memory (guess)."""

_TIMEOUT_PARAMETER = "timeout"
"""Triton's request parameter: the time the caller allows, in microseconds."""
_SEQUENCE_PARAMETER = "sequence_id"
"""Triton's: what a step of a sequence does to the node's state must not be done twice."""
_PRIORITY_PARAMETER = "priority"
"""Triton's: 1 goes first, 255 last."""
IDEMPOTENCY_KEY = "Idempotency-Key"
"""The header by which a router knows a request that it has run."""
MAX_KEY_CHARS = 255
"""The longest idempotency key, as routers take it."""
_OWN_PARAMETERS = {
    _TIMEOUT_PARAMETER: "timeout_s, in seconds",
    "binary_data_output": "is_binary",
}
"""The parameters that an argument stands for: waiting, and reading the answer, go by that argument, too."""


class Unreachable(LinkLost):
    """The router could not be connected to: the request never left."""


class CutOff(LinkLost):
    """The connection to the router ended before the answer was complete: the request may have been run."""


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """One HTTP request, how long to wait for its answer, and how to read that."""

    method: str
    path: str
    read: Callable[[Answer, str], T]
    """Makes the result from the answer and the router's URL, or raises the error that the answer is."""
    wait_s: float = PAGE_WAIT_S
    buffers: tuple[bytes | memoryview, ...] = ()
    """The body in pieces, which both clients send without joining large ones."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: Limits = DEFAULT_LIMITS
    is_repeatable: bool = True
    """True if another router may be asked when this one's connection broke; not with the steps of a sequence, or an idempotency key."""
    renew: Callable[[float | None], Ask[T]] | None = None
    """Makes the same request for a caller who waits that many seconds more, None: as long as it takes; None: it is not retried."""
    grace_s: float = 0.0
    """The part of `wait_s` that comes after the caller's deadline."""
    is_idempotent: bool = False
    """True if it has an idempotency key, so that it may be sent again though it may have run."""
    is_streamed: bool = False
    """True if the body of a good answer is read as it comes, by the answer's `rest`."""

    @property
    def size_bytes(self) -> int:
        """Return the size of the body in bytes."""
        return sum(memoryview(buffer).nbytes for buffer in self.buffers)


def ask_infer(
    model: str,
    inputs: Mapping[str, InputValue] | InputValue,
    *,
    is_cast: bool = False,
    version: str = "",
    outputs: Sequence[str] | None = None,
    classes: Mapping[str, int] = NO_CLASSES,
    timeout_s: float | None = None,
    priority: int | None = None,
    parameters: Parameters = NO_PARAMETERS,
    id: str = "",  # noqa: A002 - the protocol's own word
    idempotency_key: str = "",
    is_binary: bool = True,
    routing: RoutingOptions = ANYWHERE,
    specs: Mapping[str, TensorSpec] = NO_SPECS,
    limits: Limits = DEFAULT_LIMITS,
) -> Ask[Outputs]:
    """Return the request for one inference; raises `InvalidRequest` and `TooLarge`.

    `specs` are the model's inputs, of which lists of numbers take dtype and shape, an input without a name its name, and
    arrays their dtype where `is_cast`. Those of `classes` are outputs that are asked for, too.
    """
    checked_timeout(timeout_s)
    if isinstance(outputs, str):
        raise InvalidRequest(f"outputs is the text {outputs!r}; give a list: [{outputs!r}]")
    asked = {**parameters} if priority is None else _with_priority(parameters, priority)
    _check_parameters(asked)
    classes = checked_classes(classes)
    names = dict.fromkeys((*(outputs or ()), *classes))
    by_name = named(inputs, specs)
    tensors = tensors_of(by_name, specs, is_cast=is_cast)
    path = f"{_model_path(model, version)}/infer"
    sent = routing.headers()
    if idempotency_key:
        sent[IDEMPOTENCY_KEY] = _checked_key(idempotency_key)

    def read(answer: Answer, url: str) -> Outputs:
        try:
            _check(answer, url)
        except InvalidRequest as error:
            raise _with_cast_hint(error, by_name) from None
        try:
            header_length = parse_header_length(answer.header_length)
        except InvalidRequest as exc:
            raise ProtocolViolation(f"malformed answer: {exc.message}") from exc
        response = decode_response(answer.body, header_length, limits)
        return Outputs(
            arrays_of(response.outputs),
            node=answer.node or "",
            version=response.version,
            router=url,
            explanation=read_explanation(answer),
            classes=read_classes(response.outputs, classes),
            id=response.id,
            model=response.model,
            parameters=response.parameters,
            timings=answer.timings,
            cache=answer.cache or "",
            age_s=age_s_of(answer),
        )

    def within(timeout_s: float | None) -> Ask[Outputs]:
        """Return the request of a caller who waits so many seconds; None: as long as it takes."""
        limited = asked
        if timeout_s is not None:
            limited = {**asked, _TIMEOUT_PARAMETER: max(1, round(timeout_s * 1e6))}
        buffers, json_bytes = encode_request(
            tensors,
            outputs=[RequestedOutput(name) for name in names],
            classes=[classes.get(name, 0) for name in names] if classes else (),
            is_binary=is_binary,
            id=id,
            parameters=limited,
            limits=limits,
        )
        if json_bytes is None:
            headers = {"Content-Type": "application/json"}
        else:
            headers = {
                "Content-Type": "application/octet-stream",
                HEADER_LENGTH_NAME: str(json_bytes),
            }
        return Ask(
            "POST",
            path,
            read,
            UNASKED_WAIT_S if timeout_s is None else timeout_s + GRACE_S,
            tuple(buffers),
            {**headers, **sent},
            limits,
            is_repeatable=not idempotency_key and _SEQUENCE_PARAMETER not in asked,
            renew=within,
            grace_s=0.0 if timeout_s is None else GRACE_S,
            is_idempotent=bool(idempotency_key),
        )

    return within(timeout_s)


def ask_models() -> Ask[list[ModelEntry]]:
    """Return the request for all model versions of the fleet."""
    return Ask("POST", "/v2/repository/index", _checked(read_models))


def ask_metadata(model: str, version: str = "") -> Ask[ModelMetadata]:
    """Return the request for a model's inputs and outputs."""
    return Ask("GET", _model_path(model, version), _checked(read_metadata))


def ask_ready(model: str | None = None, version: str = "") -> Ask[bool]:
    """Return the question whether a model, or any model, can be run now."""

    def read(answer: Answer, url: str) -> bool:
        if answer.status == 503 or (model is not None and answer.status == 404):
            return False
        _check(answer, url)
        return True

    path = "/v2/health" if model is None else _model_path(model, version)
    return Ask("GET", f"{path}/ready", read)


def ask_nodes() -> Ask[list[dict[str, Any]]]:
    """Return the request for the fleet as the router sees it."""
    return Ask("GET", "/v1/nodes", _checked(read_nodes))


_NOT_TAKEN: Final = re.compile(r"ALERT_\w*CERTIFICATE|ALERT_UNKNOWN_CA", re.ASCII)
"""Matches OpenSSL's words for a server that refuses its client in the handshake."""


def ask_revoke(signed_list: bytes) -> Ask[HeldList]:
    """Return the request to take over and spread a revocation list."""
    headers = {"Content-Type": "application/octet-stream"}
    ask = Ask("POST", "/v1/revocations", _checked(read_held_list), buffers=(signed_list,))
    return dataclasses.replace(ask, headers=headers)


def unreachable(url: str, why: str) -> Unreachable:
    """Return the error for a router that cannot be connected to."""
    return Unreachable(
        f"cannot reach a router at {url}: {why}; check the address, or start a network on this machine: "
        "capamesh up"
    )


def why_not(error: Exception) -> str:
    """Return why a connection could not be made, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted: {error.verify_message}; name the file of the authority that signed it, as ca= or "
            "--ca, if it is your own"
        )
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def too_late(url: str, ask: Ask[Any]) -> DeadlineExceeded:
    """Return the error for a router that has not answered in time."""
    return DeadlineExceeded(
        f"no answer from {url} to {ask.method} {ask.path} within {ask.wait_s:g} s; allow more time, or look at "
        "the fleet: capamesh nodes"
    )


def cut_off(url: str, why: str) -> CutOff:
    """Return the error for a connection that ended before the answer was complete."""
    if _NOT_TAKEN.search(why):
        return CutOff(
            f"{url} does not take this client's certificate, or it has none: {why}; give one that the router's authority has"
            " signed, as cert= or --cert"
        )
    return CutOff(f"the connection to {url} ended before the answer was complete: {why}; ask again")


def silent(url: str, silence_s: float) -> CutOff:
    """Return the error for a router that has begun to answer, and from which nothing more comes."""
    return cut_off(url, f"nothing came for {silence_s:g} s")


def not_http(url: str, why: str) -> ProtocolViolation:
    """Return the error for an answer that is not HTTP."""
    return ProtocolViolation(f"{url} does not answer as a router does: {why}; check host and port")


def _checked(read: Callable[[Answer], T]) -> Callable[[Answer, str], T]:
    def read_checked(answer: Answer, url: str) -> T:
        _check(answer, url)
        return read(answer)

    return read_checked


def _check(answer: Answer, url: str) -> None:
    if answer.status != 200:
        raise failure_of(answer, url)


def checked_timeout(timeout_s: float | None) -> float | None:
    """Return a deadline in seconds, None for none; raise `InvalidRequest` for what is neither."""
    if timeout_s is not None and not 0 < timeout_s < float("inf"):
        raise InvalidRequest(f"timeout_s is {timeout_s!r}; give seconds above 0, or None")
    return timeout_s


def _check_parameters(parameters: Parameters) -> None:
    for name, value in parameters.items():
        if name in _OWN_PARAMETERS:
            raise InvalidRequest(f"give {_OWN_PARAMETERS[name]}, instead of the parameter {name!r}")
        is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if not (is_number or isinstance(value, str)):
            raise InvalidRequest(
                f"parameter {name!r} is {value!r:.80}: a text, a finite number or a bool is expected"
            )


def _with_priority(parameters: Parameters, priority: int) -> dict[str, str | int | float | bool]:
    """Return parameters with a priority."""
    if type(priority) is not int:
        raise InvalidRequest(
            f"priority is {priority!r:.80}; a whole number from 1, first, to 255, last, is expected"
        )
    if _PRIORITY_PARAMETER in parameters:
        raise InvalidRequest("the priority is given twice: as priority= and as a parameter")
    return {**parameters, _PRIORITY_PARAMETER: priority}


def _checked_key(key: str) -> str:
    """Return an idempotency key that a header can hold."""
    is_text = key.isascii() and key.isprintable() and key == key.strip()
    if not is_text or len(key) > MAX_KEY_CHARS:
        raise InvalidRequest(
            f"idempotency_key is {key[:40]!r}, of {len(key)} characters; at most {MAX_KEY_CHARS} of printable ASCII without blanks "
            "around them are expected, such as str(uuid.uuid4())"
        )
    return key


def _model_path(model: str, version: str) -> str:
    if not model:
        raise InvalidRequest("the model's name is empty; see the list: capamesh models")
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _with_cast_hint(error: InvalidRequest, inputs: Mapping[str, InputValue]) -> InvalidRequest:
    """Return a router's refusal with the way out, where it is about the dtype of an array."""
    for name, value in inputs.items():
        is_array = isinstance(value, np.ndarray | np.generic) or is_dlpack(value)
        said = f"tensor {name!r} is "
        if is_array and said in error.message and ", the model takes " in error.message:
            error.args = (f"{error.message}; cast=True converts arrays to what the model takes",)
            break
    return error
