"""The endpoints of batches whose answers are generated: each prompt is a row, and runs as a call of its own. Reads the clock."""

from __future__ import annotations

import contextlib
import secrets
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, ProtocolViolation
from capamesh.protocol.tasks import GENERATION, PARTS, Task
from capamesh.protocol.tensors import Datatype, Tensor, join_elements, split_elements
from capamesh.router.jobs.row_forms import Endpoint, RowForm
from capamesh.router.requests.generation.chat_answer import ChatWhole
from capamesh.router.requests.generation.chat_request import read_chat
from capamesh.router.requests.generation.completion_answer import CompletionWhole
from capamesh.router.requests.generation.completion_request import read_completion
from capamesh.router.requests.generation.parts import Progress, Usage, pieces_of
from capamesh.router.requests.generation.responses_answer import ResponseWriter
from capamesh.router.requests.generation.responses_request import read_response
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    import numpy.typing as npt

    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.steps import Steps
    from capamesh.router.requests.generation.asked import Asked
    from capamesh.router.requests.generation.written import Writer

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""The most bytes of an answer's JSON (guess: as of one that is asked for by itself)."""
BEGUN_S: Final = 60.0
"""Seconds that a call is given until its first token (guess: others of the batch are before it)."""
TOKEN_S: Final = 0.2
"""Seconds that it is given for each token that its answer may have (guess: a CPU that has others to answer)."""
MOST_S: Final = 600.0
"""The most seconds that it is given, and what one is given of which nobody says how long it may get (guess: as of one by itself)."""


def drawn_id() -> str:
    """Return a text by chance that nobody else has."""
    return secrets.token_hex(12)


class GeneratedForm(RowForm):
    """The form of one request's prompts, which no other request has: what is asked may differ in everything."""

    def __init__(self, asked: Asked, write: Callable[[Asked], Writer]) -> None:
        """`write` returns what writes the answer."""
        self._asked = asked
        self._write = write

    @property
    @override
    def outputs(self) -> tuple[str, ...]:
        return (PARTS,)

    @property
    @override
    def least_s(self) -> float:
        asked = self._asked
        if asked.max_tokens is None:
            return MOST_S
        return min(MOST_S, BEGUN_S + TOKEN_S * asked.max_tokens * asked.choices)

    @override
    def tensors(self, rows: Sequence[bytes]) -> tuple[Tensor, ...]:
        return (Tensor(GENERATION, Datatype.BYTES, (len(rows),), join_elements(rows)),)

    @override
    def paid_rows(self, rows: Sequence[bytes], answer: InferAnswer) -> int:
        total = 0
        for row, text in zip(rows, _texts_of(answer, len(rows)), strict=False):
            progress = Progress(self._asked.choices, len(row))
            with contextlib.suppress(ProtocolViolation):  # whoever reads the answer says so
                for piece in pieces_of(text):
                    progress.take(piece)
            usage = progress.usage()
            total += usage.prompt + usage.completion
        return total

    @override
    def answer(self, outputs: Mapping[str, npt.NDArray[Any]]) -> list[bytes]:
        asked = self._asked
        writer = self._write(asked)
        total = Usage()
        for number, text in enumerate(outputs[PARTS].tolist()):
            progress = Progress(asked.choices, len(asked.raw(asked.prompts[number])))
            for piece in pieces_of(text):
                progress.take(piece)
                writer.take(number * asked.choices + piece.c, piece)
            if not progress.is_over:
                raise ProtocolViolation("the node's answer is over before all of its choices are")
            total = total.plus(progress.usage())
        return [writer.end(total)]


def _texts_of(answer: InferAnswer, count: int) -> Sequence[bytes]:
    """Return the pieces of each row as they came; none: the answer has no such output, or one that cannot be read."""
    with contextlib.suppress(CapameshError):
        for output in answer.outputs:
            if output.name == PARTS and output.datatype is Datatype.BYTES:
                return split_elements(output.data, count)
    return []


class GeneratedEndpoint(Endpoint):
    """An endpoint of models for chat."""

    task = Task.CHAT

    def __init__(
        self,
        wall_clock: Callable[[], float] = time.time,
        draw_id: Callable[[], str] = drawn_id,
    ) -> None:
        """`wall_clock` is in seconds since 1970; `draw_id` returns a text by chance."""
        self._wall_clock = wall_clock
        self._draw_id = draw_id

    @override
    def read(self, body: Mapping[str, Any]) -> Steps[tuple[Sequence[bytes], RowForm]]:
        asked = self._read(body)
        if asked.is_streamed:
            raise InvalidParameter(
                "stream", "stream is true; the answers of a batch come in a file: leave it out"
            )
        rows: list[bytes] = []
        for prompt in asked.prompts:
            rows.append(asked.raw(prompt))
            yield
        return rows, GeneratedForm(asked, self._writer)

    @override
    def count(self, body: Mapping[str, Any]) -> int:
        given = body.get("prompt")
        is_several = isinstance(given, list) and bool(given) and type(given[0]) is not int  # pyright: ignore[reportUnknownArgumentType]
        return len(given) if isinstance(given, list) and is_several else 1  # pyright: ignore[reportUnknownArgumentType]

    @abstractmethod
    def _read(self, body: Mapping[str, Any]) -> Asked:
        """Return what a body asks for. Raises `InvalidParameter`."""

    @abstractmethod
    def _writer(self, asked: Asked) -> Writer:
        """Return what writes an answer."""


class Chats(GeneratedEndpoint):
    """`POST /v1/chat/completions`."""

    path = "/v1/chat/completions"
    prompt_field = "messages"

    @override
    def _read(self, body: Mapping[str, Any]) -> Asked:
        return read_chat(body)

    @override
    def _writer(self, asked: Asked) -> Writer:
        name, now_s = f"chatcmpl-{self._draw_id()}", int(self._wall_clock())
        return ChatWhole(asked, name, now_s, self._draw_id, MAX_ANSWER_BYTES)


class Completions(GeneratedEndpoint):
    """`POST /v1/completions`."""

    path = "/v1/completions"
    prompt_field = "prompt"

    @override
    def _read(self, body: Mapping[str, Any]) -> Asked:
        return read_completion(body)

    @override
    def _writer(self, asked: Asked) -> Writer:
        name, now_s = f"cmpl-{self._draw_id()}", int(self._wall_clock())
        return CompletionWhole(asked, name, now_s, MAX_ANSWER_BYTES)


class Responses(GeneratedEndpoint):
    """`POST /v1/responses`."""

    path = "/v1/responses"
    prompt_field = "input"

    @override
    def _read(self, body: Mapping[str, Any]) -> Asked:
        return read_response(body)

    @override
    def _writer(self, asked: Asked) -> Writer:
        return ResponseWriter(asked, self._draw_id, int(self._wall_clock()), MAX_ANSWER_BYTES)
