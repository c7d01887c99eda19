"""The answer to one call of generation, as it comes: parts of its choices become one JSON list. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from typing_extensions import override

from capamesh.node.generation import TokenLogprob, TokenPart, Usage
from capamesh.node.generation.parts import STOP
from capamesh.node.runtime.text_generation.text_model import ReadCall
from capamesh.node.runtime.text_generation.tool_reader import ToolPiece
from capamesh.protocol.schema import encode_json
from capamesh.protocol.tasks import PARTS
from capamesh.protocol.tensors import BYTES, Tensor, join_elements

TOOL_CALLS: Final = "tool_calls"
"""The end of an answer that calls tools."""
_LEAST_LOGPROB: Final = -9999.0
"""The log probability that is told of what cannot come: JSON has no infinity."""


class GenerationAnswer:
    """The pieces of one call that have come and were not sent yet."""

    __slots__ = (
        "_arithmetic",
        "_cached",
        "_completion",
        "_echoed",
        "_left",
        "_prompt",
        "_seed",
        "_token_text",
        "_tool_readers",
        "_unsent",
    )

    def __init__(self, call: ReadCall, token_text: Callable[[int], str]) -> None:
        self._unsent: dict[int, dict[str, Any]] = {}
        """The pieces by their choice."""
        self._left = set(call.choices)
        self._seed: int | None = call.seed
        """The seed, until it is sent; None: it was."""
        self._arithmetic = call.arithmetic
        self._token_text = token_text
        self._tool_readers = call.tool_readers
        self._prompt = self._cached = self._completion = 0
        self._echoed: list[dict[str, Any]] = []
        """The pieces that go before all others: the prompt's text, which has none of the answer's tokens."""
        if call.echo:
            self._echoed = [{"c": choice, "t": [], "x": call.echo} for choice in call.choices]

    @override
    def __repr__(self) -> str:
        return f"GenerationAnswer({len(self._left)} choices have not ended)"

    @property
    def has_unsent(self) -> bool:
        """Return whether anything has come since the last part."""
        return bool(self._unsent)

    @property
    def is_alone(self) -> bool:
        """Return whether a single choice has not ended: nothing else comes with its next part."""
        return len(self._left) == 1

    @property
    def is_over(self) -> bool:
        """Return whether all choices have ended."""
        return not self._left

    @property
    def usage(self) -> Usage:
        """Return the tokens of the prompt, and those of all choices that have ended."""
        return Usage(self._prompt, self._cached, self._completion)

    def take(self, choice: int, part: TokenPart) -> None:
        """Take a part, which has no error."""
        piece = self._piece(choice)
        reader = self._tool_readers.get(choice)
        text = part.text
        finish: str | None = part.finish
        if reader is not None:
            text, calls = reader.push(text)
            if finish is not None:
                text += reader.flush()
                finish = TOOL_CALLS if reader.count and finish == STOP else finish
            for call in calls:
                _add_call(piece, call)
        piece["t"] += part.ids
        piece["x"] += text
        if part.logprobs is not None:
            piece.setdefault("p", []).extend(map(self._logprobs, part.logprobs))
        if finish is not None:
            piece["f"] = finish
            self._left.discard(choice)
        if part.usage is not None:
            self._prompt = part.usage.prompt
            self._cached = max(self._cached, part.usage.cached)
            self._completion += part.usage.completion

    def sent(self) -> Tensor:
        """Return what was not sent yet as the output of a part, or of the end; it counts as sent then."""
        pieces = [*self._echoed, *(self._unsent[choice] for choice in sorted(self._unsent))]
        self._unsent, self._echoed = {}, []
        if pieces and self._seed is not None:
            pieces[0]["s"], self._seed = self._seed, None
            if self._arithmetic:
                pieces[0]["a"] = self._arithmetic
        if self.is_over and pieces:
            pieces[-1]["u"] = [self._prompt, self._cached, self._completion]
        return Tensor(PARTS, BYTES, (1,), join_elements([encode_json(pieces)]))

    def _piece(self, choice: int) -> dict[str, Any]:
        piece = self._unsent.get(choice)
        if piece is None:
            piece = self._unsent[choice] = {"c": choice, "t": [], "x": ""}
        return piece

    def _logprobs(self, found: TokenLogprob) -> list[list[Any]]:
        """Return a token and the likeliest in its place: number, text and log probability of each."""
        tokens = [(found.token, found.logprob), *found.top]
        return [
            [token, self._token_text(token), max(float(logprob), _LEAST_LOGPROB)]
            for token, logprob in tokens
        ]


def _add_call(piece: dict[str, Any], call: ToolPiece) -> None:
    """Add a piece of a call; more arguments of the call that came last are put to those."""
    calls: list[dict[str, Any]] = piece.setdefault("k", [])
    if calls and calls[-1]["i"] == call.index:
        calls[-1]["arguments"] += call.arguments
        return
    told: dict[str, Any] = {"i": call.index, "arguments": call.arguments}
    if call.id:
        told |= {"id": call.id, "name": call.name}
    calls.append(told)
