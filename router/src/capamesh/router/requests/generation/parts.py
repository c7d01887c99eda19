"""Reads what nodes answer of a generation: pieces of choices, and how far each choice is. Pure."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Annotated, Final, Literal

from capamesh.protocol.errors import CapameshError, ProtocolViolation
from capamesh.protocol.schema import Meta, Struct, json_reader
from capamesh.protocol.tasks import PARTS
from capamesh.protocol.tensors import split_elements
from capamesh.router.requests.generation.asked import BYTES_A_TOKEN, MOST_CHOICES, SEEDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.links.calls import InferAnswer

MOST_KEPT: Final = 131_072
"""The most tokens that are kept of an answer, for another node to go on behind them (guess: half a megabyte)."""
TEMPLATE_TOKENS: Final = 4096
"""The tokens that a template may add to a prompt (guess), by which a node's count of the prompt is bounded."""

Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Finish = Literal["stop", "length", "tool_calls"]


class ToolDelta(Struct, frozen=True):
    """A piece of a call of a tool."""

    i: Annotated[int, Meta(ge=0, le=127)] = 0
    """The number of the call in its choice."""
    id: str = ""
    name: str = ""
    arguments: str = ""


class Piece(Struct, frozen=True):
    """A piece of an answer, as a node sends it."""

    c: Annotated[int, Meta(ge=0, lt=MOST_CHOICES)] = 0
    """The choice that it is of."""
    t: tuple[Token, ...] = ()
    """The tokens that it has."""
    x: str = ""
    """The text that it has."""
    p: tuple[Annotated[tuple[tuple[int, str, float], ...], Meta(min_length=1)], ...] | None = None
    """The number, text and log probability of each token, and behind it those of the likeliest in its place."""
    k: tuple[ToolDelta, ...] = ()
    f: Finish | None = None
    """The reason why the choice has ended; None: it has not."""
    s: Annotated[int, Meta(ge=0)] | None = None
    """The seed of the whole answer."""
    a: Annotated[str, Meta(max_length=32)] = ""
    """The name of the way in which the node rounds; empty: it tells none."""
    u: tuple[Count, Count, Count] | None = None
    """The tokens of the prompt, those of it that did not have to run, and those of all choices."""


class Usage(Struct, frozen=True):
    """The tokens that a request took."""

    prompt: int = 0
    cached: int = 0
    """The tokens of the prompt that did not have to run, for their state was kept."""
    completion: int = 0
    may_differ: bool = False
    """True if another node went on, and the text may not be the one that the first would have made."""

    def plus(self, other: Usage) -> Usage:
        """Return the tokens of both."""
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.may_differ or other.may_differ,
        )


_read_list = json_reader(list[Piece])


def read_pieces(answer: InferAnswer) -> list[Piece]:
    """Return the pieces in a node's answer, or in a part of it. Raises `ProtocolViolation`."""
    (output,) = answer.outputs
    try:
        if output.shape != (1,):
            raise ProtocolViolation(
                f"the node's output {PARTS!r} has the shape {list(output.shape[:8])}, not [1]"
            )
        (text,) = split_elements(output.data, 1)
    except CapameshError as exc:
        raise _no_pieces(exc) from exc
    return pieces_of(text)


def pieces_of(text: bytes) -> list[Piece]:
    """Return the pieces in a node's JSON. Raises `ProtocolViolation`."""
    try:
        return _read_list(text)
    except (ValueError, RecursionError) as exc:
        raise _no_pieces(exc) from exc


def _no_pieces(why: Exception) -> ProtocolViolation:
    return ProtocolViolation(f"the node's pieces of an answer are none: {str(why)[:200]}")


class Progress:
    """The progress of the answer to one prompt: all that another node needs to go on with it."""

    __slots__ = (
        "_arithmetic",
        "_choices",
        "_size_bytes",
        "_told",
        "count",
        "ended",
        "has_begun",
        "ids",
        "may_differ",
        "seed",
    )

    def __init__(self, choices: int, size_bytes: int) -> None:
        """`size_bytes` is what its node was asked, which bounds how many tokens the prompt can have."""
        self._choices = choices
        self._size_bytes = size_bytes
        self._told: tuple[int, int, int] | None = None
        """The tokens as the node has counted them."""
        self.ids: dict[int, array[int]] | None = {each: array("i") for each in range(choices)}
        """The tokens of each choice; None: they are too many to keep."""
        self.count = 0
        """The tokens of all choices."""
        self.ended: set[int] = set()
        self.seed: int | None = None
        self._arithmetic = ""
        self.may_differ = False
        """True if the nodes that made it round in other ways."""
        self.has_begun = False
        """True once anything has come."""

    @property
    def is_over(self) -> bool:
        """Return whether all choices have ended."""
        return len(self.ended) == self._choices

    def take(self, piece: Piece) -> None:
        """Take a piece. Raises `ProtocolViolation`: there is no such choice, or it has ended."""
        choice = piece.c
        if choice >= self._choices:
            raise ProtocolViolation(f"the node answers choice {choice} of {self._choices}")
        self.has_begun = True
        if piece.s is not None:
            if piece.s >= SEEDS:
                raise ProtocolViolation(f"the node's seed has {piece.s.bit_length()} bits, of 64")
            self.seed = piece.s
        if piece.a:
            self.may_differ |= piece.a != (self._arithmetic or piece.a)
            self._arithmetic = piece.a
        if piece.u is not None:
            self._told = piece.u
        if choice in self.ended:
            if piece.t or piece.x or piece.k or piece.f:
                raise ProtocolViolation(f"the node goes on with choice {choice}, which has ended")
            return
        self._keep(choice, piece.t)
        if piece.f is not None:
            self.ended.add(choice)

    def usage(self) -> Usage:
        """Return what it took: as its node says, within what can be, or reckoned where it has said nothing."""
        count = self.count
        if self._told is None:
            return Usage(self._size_bytes // BYTES_A_TOKEN, 0, count, self.may_differ)
        prompt, cached, completion = self._told
        prompt = min(prompt, self._size_bytes + TEMPLATE_TOKENS)
        # a token that ends a choice has no text, and may not be told
        return Usage(
            prompt,
            min(cached, prompt),
            min(max(completion, count), count + self._choices),
            self.may_differ,
        )

    def left(self) -> dict[int, Sequence[int]]:
        """Return the tokens of the choices that have not ended."""
        ids = self.ids or {}
        return {choice: found for choice, found in ids.items() if choice not in self.ended}

    def _keep(self, choice: int, ids: Sequence[int]) -> None:
        self.count += len(ids)
        if self.count > MOST_KEPT:
            self.ids = None
        if self.ids is not None:
            self.ids[choice].extend(ids)
