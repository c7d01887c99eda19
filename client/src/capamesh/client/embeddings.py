"""The embeddings of texts: the request for them, in OpenAI's form, and the vectors of its answer. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from capamesh.client.answers import Answer, failure_of, read_json
from capamesh.client.asks import GRACE_S, UNASKED_WAIT_S, Ask, checked_timeout
from capamesh.client.routing_options import ANYWHERE, RoutingOptions
from capamesh.client.timings import Timings
from capamesh.protocol.errors import InvalidRequest, ProtocolViolation
from capamesh.protocol.tensors import DEFAULT_LIMITS, Limits

PATH: Final = "/v1/embeddings"
Texts: TypeAlias = str | Sequence[str] | Sequence[Sequence[int]]
"""A text, several, or several as the numbers of their tokens."""
_SHOWN_CHARS: Final = 200


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The embeddings of some texts, with what they took."""

    vectors: npt.NDArray[np.float32]
    """One vector for each text, in the order of the texts: float32 of the shape [texts, dimensions]; the array is the caller's own."""
    tokens: int
    """The tokens of all texts together."""
    model: str
    """The model's name, as the router says it."""
    nodes: tuple[str, ...]
    """The peer ids of the nodes that ran parts of the request, the first eight."""
    router: str
    """The URL of the router that answered."""
    timings: Timings
    """The seconds that the answer took, and how often the request was sent."""


def ask_embeddings(
    model: str,
    texts: Texts,
    *,
    dimensions: int | None = None,
    timeout_s: float | None = None,
    routing: RoutingOptions = ANYWHERE,
    limits: Limits = DEFAULT_LIMITS,
) -> Ask[Embeddings]:
    """Return the request for the embeddings of `texts`; `dimensions` is the length of the vectors, None: the model's own.

    Raises `InvalidRequest` for what JSON cannot say; the router refuses all else that a model does not take.
    """
    checked_timeout(timeout_s)
    if not model:
        raise InvalidRequest("the model's name is empty; see the list: capamesh models")
    several = (texts,) if isinstance(texts, str) else texts
    asked = [_plain(place, text) for place, text in enumerate(several)]
    fields: dict[str, Any] = {"model": model, "input": asked, "encoding_format": "base64"}
    if dimensions is not None:
        fields["dimensions"] = dimensions
    try:
        body = json.dumps(fields, ensure_ascii=False).encode()
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(
            f"the texts cannot be sent: {exc}; give texts, or whole numbers of tokens"
        ) from exc
    count = len(asked)

    def read(answer: Answer, url: str) -> Embeddings:
        if answer.status != 200:
            raise failure_of(answer, url)
        return read_embeddings(answer, url, count)

    def within(timeout_s: float | None) -> Ask[Embeddings]:
        """Return the request of a caller who waits so many seconds; None: as long as it takes."""
        return Ask(
            "POST",
            PATH,
            read,
            UNASKED_WAIT_S if timeout_s is None else timeout_s + GRACE_S,
            (body,),
            {"Content-Type": "application/json", **routing.headers()},
            limits,
            renew=within,
            grace_s=0.0 if timeout_s is None else GRACE_S,
        )

    return within(timeout_s)


def read_embeddings(answer: Answer, url: str, count: int) -> Embeddings:
    """Return the `count` vectors of an answer; raise `ProtocolViolation` where it is another."""
    fields = read_json(answer)
    try:
        said = cast("dict[str, Any]", fields)
        vectors = _vectors(said["data"], count)
        tokens, model = int(said["usage"]["total_tokens"]), str(said["model"])
    except (KeyError, TypeError, ValueError, binascii.Error) as exc:
        shown = repr(fields)[:_SHOWN_CHARS]
        raise ProtocolViolation(
            f"the answer has no embeddings: {exc}, in {shown}; is this a router's URL?"
        ) from exc
    nodes = tuple(filter(None, (answer.node or "").split(",")))
    return Embeddings(vectors, tokens, model, nodes, url, answer.timings)


def _vectors(data: Any, count: int) -> npt.NDArray[np.float32]:  # noqa: ANN401 - as the answer has it
    """Return the vectors, [count, dimensions], in the order of their texts; raise `KeyError`, `TypeError` or `ValueError`."""
    rows = sorted(data, key=lambda each: int(each["index"]))
    if [row["index"] for row in rows] != list(range(count)):
        raise ValueError(f"{len(rows)} vectors for {count} texts")
    raw = [base64.b64decode(row["embedding"], validate=True) for row in rows]
    joined = np.frombuffer(b"".join(raw), "<f4")
    if len({len(each) for each in raw}) != 1 or not joined.size:
        raise ValueError("vectors of several lengths, or of none")
    return joined.reshape(count, -1).astype(np.float32)


def _plain(place: int, text: object) -> object:
    """Return a text, or the numbers of its tokens, as JSON has it; raise `InvalidRequest` for what is neither."""
    plain: object = text if isinstance(text, str) else np.asarray(text).tolist()
    if type(plain) not in {str, list}:
        raise InvalidRequest(
            f"text {place} is {text!r:.80}; a text, or a list of the numbers of its tokens, is expected"
        )
    return plain
