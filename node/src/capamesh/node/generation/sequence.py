"""One sequence of tokens on its way through the engine: what was asked, what came, and where it is. Pure."""

from __future__ import annotations

from abc import abstractmethod
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from mypy_extensions import mypyc_attr
from typing_extensions import override

from capamesh.node.generation.lookup import Lookup
from capamesh.node.generation.parts import TokenPart, Usage
from capamesh.node.generation.request import GenerationRequest
from capamesh.node.generation.sampling import TokenHistory
from capamesh.node.generation.stops import StopStrings
from capamesh.protocol.values import Value

NO_SLOT: Final = -1


@mypyc_attr(native_class=False)
class TokenText(Protocol):
    """The text of one answer's tokens, as they come."""

    __slots__ = ()

    @abstractmethod
    def push(self, token: int) -> str:
        """Return the text that `token` completes; empty where characters are not whole yet."""

    @abstractmethod
    def flush(self) -> str:
        """Return the text that is still held back, for nothing more comes."""


@mypyc_attr(native_class=False)
class Constraint(Protocol):
    """The grammar that one answer must follow, at the place where the answer is."""

    __slots__ = ()

    @abstractmethod
    def prepare(self) -> None:
        """Find out which tokens may come next; may be called in another thread, while the model runs."""

    @abstractmethod
    def mask(self) -> npt.NDArray[np.bool_]:
        """Return which tokens may come next, in the shape [vocabulary]."""

    @abstractmethod
    def accept(self, token: int) -> None:
        """Go on behind `token`. Raises `RunFailed`: the grammar does not allow it."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Return whether the answer is complete, and nothing may follow."""


class Sequence:
    """One choice of a request. The engine alone changes it."""

    __slots__ = (
        "cached",
        "choice",
        "constraint",
        "expected_tokens",
        "fed",
        "history",
        "is_ended",
        "is_saved",
        "leader",
        "lookup",
        "most_tokens",
        "order",
        "out",
        "prefill",
        "replayed",
        "request",
        "scores",
        "shared",
        "siblings",
        "slot",
        "stops",
        "text",
        "times_put_back",
    )

    def __init__(
        self,
        request: GenerationRequest,
        choice: int,
        order: int,
        length: int,
        text: TokenText,
        constraint: Constraint | None,
    ) -> None:
        """`order` is the number of its arrival; `length` the most tokens of a slot."""
        self.request = request
        self.choice = choice
        self.order = order
        self.text = text
        self.constraint = constraint
        self.stops = StopStrings(request.stop_strings, keeps=request.keeps_stop)
        self.out = list(request.resumed)
        """The answer's tokens."""
        self.fed = 0
        """The number of the answer's tokens that the slot holds."""
        self.prefill = list(request.prompt)
        """The tokens that are run in chunks."""
        self.replayed = 0
        """The number of the answer's tokens that are run in steps of many before it generates; others that are known are run one in a step."""
        self.most_tokens = min(len(request.prompt) + request.max_tokens, length)
        """The most tokens that prompt and answer can come to."""
        self.expected_tokens = self.most_tokens
        """The tokens that they are expected to come to, as it seemed when it came."""
        self.history = (
            TokenHistory(request.prompt, self.out) if request.sampling.has_penalties else None
        )
        self.siblings: list[Sequence] = []
        """The other choices of the request, which begin with a copy of this one's slot."""
        self.slot = NO_SLOT
        self.cached = 0
        """Tokens of the prompt that did not have to run."""
        self.is_saved = False
        """True once the prompt's cache was given to the prefixes."""
        self.scores: npt.NDArray[np.float32] | None = None
        """The scores behind the prompt in the shape [vocabulary], until they are kept with it."""
        self.leader: Sequence | None = None
        """The one whose prompt is being filled that begins with the same `shared` tokens; None: it waits for nobody's."""
        self.shared = 0
        self.lookup: Lookup | None = None
        """Guesses its next tokens while it generates; None: nothing does."""
        self.is_ended = False
        self.times_put_back = 0
        """The number of times that it lost its slot to another."""

    @override
    def __repr__(self) -> str:
        return f"Sequence({self.order}.{self.choice}, {len(self.prefill)} + {len(self.out)} tokens, slot {self.slot})"

    @property
    def width(self) -> int:
        """The number of slots that it and its siblings need."""
        return 1 + len(self.siblings)

    @property
    def fill_tokens(self) -> int:
        """The number of tokens that the slot gets before it generates."""
        return len(self.prefill) + self.replayed

    @property
    def wants_token(self) -> bool:
        """Return whether the token behind all that the slot holds is yet to be drawn; else it is known, and fed next."""
        return self.fed == len(self.out)

    @property
    def position(self) -> int:
        """The place in prompt and answer of the token to be drawn next."""
        return len(self.request.prompt) + len(self.out)

    @property
    def held(self) -> int:
        """The tokens that its slot should hold while it generates."""
        return len(self.request.prompt) + self.fed

    @property
    def is_full(self) -> bool:
        """Return whether it may have no more tokens."""
        return self.position >= self.most_tokens

    def rewind(self) -> None:
        """Forget the slot, which another gets: all tokens are to be computed again, in the same manner."""
        self.slot = NO_SLOT
        self.leader = self.lookup = None
        self.fed = 0
        self.times_put_back += 1

    def usage(self) -> Usage:
        """Return the tokens that it has taken."""
        return Usage(len(self.request.prompt), self.cached, len(self.out))


class SequencePart(Value):
    """A part with the sequence that it belongs to."""

    __slots__ = ("part", "sequence")

    def __init__(self, sequence: Sequence, part: TokenPart) -> None:
        self.sequence = sequence
        self.part = part
