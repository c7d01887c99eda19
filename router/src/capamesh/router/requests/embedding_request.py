"""Reads the body of a request for embeddings, as OpenAI has it, and divides its texts into parts. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip import InferRequest, RequestedOutput
from capamesh.protocol.schema import Mismatch, json_value, shown
from capamesh.protocol.tasks import DIMENSIONS, EMBEDDING, TEXT, TOKEN_IDS, TOKENS
from capamesh.protocol.tensors import Datatype, Tensor, join_elements
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    from capamesh.protocol.adverts import ModelOffer
    from capamesh.protocol.steps import Steps

MOST_BYTES: Final = 2**21
"""The most bytes of a body (measured: 10 ms to parse the worst; OpenAI takes 300,000 tokens, which are 1.2 MB of English)."""
MOST_TEXTS: Final = 2048
"""The most texts of a request: OpenAI's own limit."""
MOST_DIMENSIONS: Final = 2**20
MOST_TOKENS: Final = 131_072
"""The most tokens of a text: the most that a manifest may allow."""
LEAST_PART, LARGEST_PART = 8, 32
"""The fewest and the most texts that go to a node at once, where its model does not say how many are best (guess: fewer cost
more than they run, more wait while other nodes are idle)."""
STEP_TOKENS: Final = 65_536
"""The tokens that are read in a step (measured: 2 ms)."""
_NONE: Final = np.array([-1], "<i4")
"""Stands for numbers that do not fit."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request for embeddings."""

    model: str
    rows: tuple[bytes, ...]
    """The texts in UTF-8, or the numbers of their tokens as little-endian int32."""
    is_tokens: bool
    is_base64: bool
    """True if vectors are wanted as base64 of their float32, False as lists of numbers."""
    dimensions: int
    """The length of the vectors; 0: the model's own."""

    def digest(self) -> str:
        """Return a text that another request's differs from."""
        told = repr((self.model, self.rows, self.is_tokens, self.dimensions))
        return sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    def parts(
        self, offer: ModelOffer, *, is_named: bool = False
    ) -> list[tuple[list[int], InferRequest]]:
        """Return requests for a model that is advertised so, each with the places of its texts.

        Texts of like length go together, for each is padded to the longest beside it. One that `is_named` is parted in the same
        way when it comes again, whatever nodes have measured meanwhile.
        """
        best_rows = LARGEST_PART if is_named else offer.best_rows
        size = min(max(best_rows, LEAST_PART), LARGEST_PART)
        if offer.max_rows:
            size = min(size, offer.max_rows)
        order = list(range(len(self.rows)))
        if len(order) > size:
            order.sort(key=lambda place: len(self.rows[place]))
        found: list[tuple[list[int], InferRequest]] = []
        for start in range(0, len(order), size):
            places = order[start : start + size]
            found.append((places, self._part(places)))
        return found

    def _part(self, places: Sequence[int]) -> InferRequest:
        data = join_elements([self.rows[place] for place in places])
        name = TOKEN_IDS if self.is_tokens else TEXT
        inputs = [Tensor(name, Datatype.BYTES, (len(places),), data)]
        if self.dimensions:
            asked = np.array([self.dimensions], "<i4")
            inputs.append(Tensor.from_numpy(DIMENSIONS, asked))
        outputs = (RequestedOutput(EMBEDDING), RequestedOutput(TOKENS))
        return InferRequest(self.model, "", "", tuple(inputs), outputs)


def read_in_steps(body: bytes) -> Steps[EmbeddingRequest]:
    """Return the request in a body; raises as `request_of`, or `InvalidRequest` for what is no JSON object."""
    return (yield from request_of(_object(body)))


def request_of(fields: Mapping[str, Any]) -> Steps[EmbeddingRequest]:
    """Return the request that a body's fields make. Those that are not known, and `user`, are skipped, as OpenAI's server does.

    Raises `InvalidParameter`, which names the field.
    """
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidParameter("model", "model is missing; name one: GET /v1/models lists them")
    form = fields.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise InvalidParameter(
            "encoding_format", f"encoding_format is {form!r:.80}; it may be 'float' or 'base64'"
        )
    dimensions = fields.get("dimensions")
    if dimensions is not None and (
        type(dimensions) is not int or not 1 <= dimensions <= MOST_DIMENSIONS
    ):
        raise InvalidParameter(
            "dimensions",
            f"dimensions is {dimensions!r:.80}; a whole number from 1 to {MOST_DIMENSIONS} is expected",
        )
    rows, is_tokens = yield from _rows(fields.get("input"))
    return EmbeddingRequest(model, rows, is_tokens, form == "base64", dimensions or 0)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json_value(body)
    except Mismatch as exc:
        raise InvalidRequest(str(exc)) from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"the JSON must be an object, got {shown(value)}")
    return cast("dict[str, Any]", value)


def _rows(given: Any) -> Steps[tuple[tuple[bytes, ...], bool]]:  # noqa: ANN401 - a stranger's JSON
    """Return the texts, and whether they are tokens: of a text, tokens, or a list of either."""
    if isinstance(given, str):
        return (_text(given, ""),), False
    if not isinstance(given, list) or not given:
        raise InvalidParameter(
            "input", "input is missing or empty; give a text, tokens, or a list of either"
        )
    items = cast("list[object]", given)
    if type(items[0]) is int:
        return (_tokens(items, ""),), True
    if len(items) > MOST_TEXTS:
        raise InvalidParameter(
            "input",
            f"input has {len(items)} texts; at most {MOST_TEXTS} are taken at once: split it",
        )
    kinds = set(map(type, items))
    if kinds == {str}:
        texts = cast("list[str]", items)
        return tuple(_text(text, f"[{place}]") for place, text in enumerate(texts)), False
    if kinds != {list}:
        raise InvalidParameter(
            "input",
            "input has things of several kinds; give a text, tokens as whole numbers, or a list of either",
        )
    rows: list[bytes] = []
    since = 0
    for place, row in enumerate(cast("list[list[object]]", items)):
        rows.append(_tokens(row, f"[{place}]"))
        since += len(row)
        if since >= STEP_TOKENS:
            since = 0
            yield
    return tuple(rows), True


def _text(text: str, where: str) -> bytes:
    if not text:
        raise InvalidParameter("input", f"input{where} is an empty text; leave it out")
    return text.encode()


def _tokens(row: Sequence[object], where: str) -> bytes:
    if not row:
        raise InvalidParameter("input", f"input{where} has no tokens; leave it out")
    if len(row) > MOST_TOKENS:
        raise InvalidParameter(
            "input", f"input{where} has {len(row)} tokens; no model takes more than {MOST_TOKENS}"
        )
    if set(map(type, row)) != {int}:
        raise InvalidParameter("input", f"input{where} has tokens that are no whole numbers")
    try:
        numbers = np.array(array("i", cast("Sequence[int]", row)), "<i4")
    except OverflowError:
        numbers = _NONE
    if numbers.min() < 0:
        raise InvalidParameter(
            "input", f"input{where} has tokens that are not from 0 to {2**31 - 1}"
        )
    return numbers.tobytes()
