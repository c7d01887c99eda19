"""The answers about the history, made and packed once for all who ask until the history goes on. Holds state, does no IO."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from typing_extensions import override

if TYPE_CHECKING:
    from capamesh.router.page.history import History

MOST_BYTES: Final = 4 * 2**20
"""The most bytes of all answers that are kept: 90 of a day, which are the longest (43 KB, measured)."""
_TAG_BYTES: Final = 8
_GZIP: Final = 31


@dataclass(frozen=True, slots=True)
class HistoryAnswer:
    """The history of one model or of the router, as JSON."""

    plain: bytes
    packed: bytes
    """The same as gzip."""
    tag: str
    """A digest of it, by which one who has it can ask whether it is still so."""


class HistoryAnswers:
    """The answers about one history."""

    def __init__(self, history: History, *, most_bytes: int = MOST_BYTES) -> None:
        self._history = history
        self._most_bytes = most_bytes
        self._turn: int = -1
        """The turn of the history that the answers are of."""
        self._kept: OrderedDict[tuple[str, int], HistoryAnswer] = OrderedDict()
        """The answers of this turn of the history, by model and bins, the one that was asked for last at the end."""
        self.kept_bytes = 0
        """The bytes of all answers that are kept."""
        self.made = 0
        """The number of answers that were made."""

    @override
    def __repr__(self) -> str:
        return f"HistoryAnswers({len(self._kept)} kept, {self.kept_bytes} bytes)"

    def answer(self, model: str, span_s: float) -> HistoryAnswer:
        """Return the last `span_s` of a model, of the router if it is "": see `History.body`.

        What is said of a model without a history is short and not kept: strangers make up any number of names.
        """
        history = self._history
        if history.turns != self._turn:
            self._turn = history.turns
            self._kept.clear()
            self.kept_bytes = 0
        key = (model, history.bins_of(span_s))
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        made = self._make(model, span_s)
        if history.has(model):
            self._kept[key] = made
            self.kept_bytes += _size_bytes(made)
            while self.kept_bytes > self._most_bytes:
                _, oldest = self._kept.popitem(last=False)
                self.kept_bytes -= _size_bytes(oldest)
        return made

    def _make(self, model: str, span_s: float) -> HistoryAnswer:
        self.made += 1
        plain = json.dumps(self._history.body(model, span_s), separators=(",", ":")).encode()
        return answer_of(plain)


def answer_of(plain: bytes) -> HistoryAnswer:
    """Return the answer that says `plain`, packed."""
    packer = zlib.compressobj(5, wbits=_GZIP)
    packed = packer.compress(plain) + packer.flush()
    return HistoryAnswer(plain, packed, hashlib.blake2b(plain, digest_size=_TAG_BYTES).hexdigest())


def _size_bytes(answer: HistoryAnswer) -> int:
    return len(answer.plain) + len(answer.packed)
