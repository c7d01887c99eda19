"""The endpoints that a batch can be for: what a request has in rows, how these are asked for, and the answer they make. Pure.

A request may have several rows, as texts of which each gets a vector. The rows of many requests run as one call where their `RowForm`
is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from typing_extensions import override

from capamesh.protocol.steps import run_through
from capamesh.protocol.tasks import DIMENSIONS, EMBEDDING, TEXT, TOKEN_IDS, TOKENS, Task
from capamesh.protocol.tensors import Datatype, Tensor, join_elements
from capamesh.router.jobs.generated_rows import Chats, Completions, Responses
from capamesh.router.jobs.row_forms import Endpoint, RowForm
from capamesh.router.requests.embedding_answer import written
from capamesh.router.requests.embedding_request import EmbeddingRequest, request_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from capamesh.protocol.steps import Steps

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""The most bytes of an answer's JSON (guess: as of one that is asked for by itself)."""


@dataclass(frozen=True, slots=True)
class EmbeddingForm(RowForm):
    """Texts, or the tokens of texts, of which each gets a vector."""

    asked: EmbeddingRequest
    """The request, without its texts."""

    @property
    @override
    def outputs(self) -> tuple[str, ...]:
        return (EMBEDDING, TOKENS)

    @override
    def tensors(self, rows: Sequence[bytes]) -> tuple[Tensor, ...]:
        name = TOKEN_IDS if self.asked.is_tokens else TEXT
        texts = Tensor(name, Datatype.BYTES, (len(rows),), join_elements(rows))
        if not self.asked.dimensions:
            return (texts,)
        return texts, Tensor.from_numpy(DIMENSIONS, np.array([self.asked.dimensions], "<i4"))

    @override
    def answer(self, outputs: Mapping[str, npt.NDArray[Any]]) -> list[bytes]:
        vectors = np.ascontiguousarray(outputs[EMBEDDING], "<f4")
        tokens = int(outputs[TOKENS].sum(dtype=np.int64))
        return run_through(written(self.asked, vectors, tokens, MAX_ANSWER_BYTES))


class Embeddings(Endpoint):
    """`POST /v1/embeddings`."""

    path = "/v1/embeddings"
    task = Task.TEXT_EMBEDDING

    @override
    def read(self, body: Mapping[str, Any]) -> Steps[tuple[Sequence[bytes], RowForm]]:
        asked = yield from request_of(body)
        return asked.rows, EmbeddingForm(replace(asked, rows=()))

    @override
    def count(self, body: Mapping[str, Any]) -> int:
        given = body.get("input")
        if not isinstance(given, list):
            return 1
        items = cast("list[object]", given)
        return 1 if not items or type(items[0]) is int else len(items)


ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    each.path: each for each in (Embeddings(), Chats(), Completions(), Responses())
}
"""The endpoints by their paths."""
