"""Prompts to tokens, and an answer's tokens to text as they come. Pure but for the library."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from capamesh.node.generation import TokenText
from capamesh.node.generation.admission import over_context
from capamesh.node.runtime.tasks.tokenizers import MAX_TOKENIZER_BYTES
from capamesh.node.runtime.text_generation.control_marks import BREAK, ControlMarks, broken
from capamesh.node.runtime.text_generation.packages import missing
from capamesh.protocol.errors import InvalidRequest, ModelInvalid

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HEAD: Final = 8
"""The characters of a text's beginning that is made into tokens by itself, in times of the most tokens that it may have (English has 4 a token)."""
SURELY: Final = 2
"""A text is too long if such a beginning has so many times the most tokens: where it is cut, it may have a few more than within the text."""
MOST_HELD: Final = 8
"""The tokens that are held back for a character that is not whole; it takes four bytes at most, so that more are no text (guess)."""
MOST_KEPT_TEXTS: Final = 65_536
"""The most texts of single tokens that are remembered (guess: those that answers have)."""
_BROKEN: Final = "\ufffd"
"""The character in the place of bytes that are no UTF-8."""


class GenerationTokenizer:
    """The tokenizer of one model that generates. Safe to use from several threads at once."""

    def __init__(self, raw: bytes, ends: Iterable[int] = ()) -> None:
        """`raw` is the tokenizer's file, `ends` are the tokens that end an answer.

        Raises `ModelInvalid`: it is no tokenizer, or the package is missing.
        """
        if len(raw) > MAX_TOKENIZER_BYTES:
            raise ModelInvalid(
                f"the tokenizer has {len(raw)} bytes; it may have {MAX_TOKENIZER_BYTES}"
            )
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the machine's cores are for runs
        try:
            from tokenizers import Tokenizer  # noqa: PLC0415 - a node without texts goes without
        except ImportError as exc:
            raise missing("tokenizers") from exc
        try:
            made: Any = Tokenizer.from_buffer(raw)
            made.no_padding()
            made.no_truncation()
            made.decode(made.encode("").ids)  # what a file lacks is told at the first text
        except BaseException as exc:  # a panic of Rust is no Exception
            if isinstance(exc, KeyboardInterrupt | SystemExit):
                raise
            raise ModelInvalid(f"the tokenizer cannot be used: {str(exc)[:200]}") from exc
        self._tokenizer: Tokenizer = made
        self.token_text: Callable[[int], str] = lru_cache(MOST_KEPT_TEXTS)(self._token_text)
        """Returns the text of one token alone, without a special one."""
        self.vocabulary: int = made.get_vocab_size(with_added_tokens=True)
        """The number of tokens; a model may score more."""
        self._longest = max(map(len, made.get_vocab(with_added_tokens=True)), default=1)
        """The most characters of a token."""
        added: dict[int, Any] = made.get_added_tokens_decoder()
        ending = frozenset(ends)
        self._control = frozenset(
            [token for token, each in added.items() if each.special or token in ending]
        )
        self.marks = ControlMarks([added[token].content for token in self._control])
        self.may_fold = made.normalizer is not None and any(
            added[token].normalized for token in self._control
        )
        """True if it looks for control tokens in texts that it has changed, so that others than `marks` may become some, as `</S>`."""
        self._breaking: _Breaking | None = None
        self._lock = threading.Lock()

    def encode(self, text: str, *, adds_special: bool, is_broken: bool = False) -> list[int]:
        """Return the tokens of a prompt; a chat template has written the special ones itself. Blocks: 3 ms for 1,000 tokens.

        With `is_broken` it has texts that `marks` has broken, which are read as plain ones. Raises `InvalidRequest`: it cannot be made into
        tokens.
        """
        if is_broken:
            with self._lock:
                # it takes as long as to load the tokenizer, and as much memory
                if self._breaking is None:
                    self._breaking = _Breaking(self._tokenizer, self.marks, self._control)
            return self._breaking.encode(text, adds_special=adds_special)
        return _encoded(self._tokenizer, text, adds_special=adds_special)

    def check_length(self, text: str, length: int) -> None:
        """Refuse a text that cannot have fewer than `length` tokens, and whose tokens would take long to make. Blocks: 3 ms for 1,000 tokens of `length`.

        Raises `ContextExceeded`.
        """
        least = -(-len(text) // self._longest)
        if least >= length:
            raise over_context(least, length, is_least=True)
        head = HEAD * length
        while head < len(text):
            tokens = len(_encoded(self._tokenizer, text[:head], adds_special=False))
            if tokens >= SURELY * length:
                raise over_context(tokens, length, is_least=True)
            head *= 4

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without special ones."""
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def _token_text(self, token: int) -> str:
        return self.decode([token])

    def token_of(self, text: str) -> int | None:
        """Return the number of the token that `text` is; None: it is none."""
        return self._tokenizer.token_to_id(text)

    def new_text(self, shown: Mapping[int, str] | None = None) -> AnswerText:
        """Return the text of an answer that begins; `shown` has the special tokens that are told, with their texts."""
        return AnswerText(self, shown or {})


class _Breaking:
    """A tokenizer that reads the texts which `ControlMarks` has broken as plain ones."""

    def __init__(self, own: Tokenizer, marks: ControlMarks, control: frozenset[int]) -> None:
        values = json.loads(own.to_str())
        for each in values["added_tokens"]:
            each["normalized"] = False  # they are found before the character is left out
        leaves_out = {"type": "Replace", "pattern": {"String": BREAK}, "content": ""}
        usual = values.get("normalizer")
        values["normalizer"] = (
            leaves_out
            if usual is None
            else {"type": "Sequence", "normalizers": [leaves_out, usual]}
        )
        self._tokenizer = type(own).from_str(json.dumps(values))
        self._spaced = [
            mark
            for mark in marks.texts
            if not control.isdisjoint(_encoded(self._tokenizer, broken(mark), adds_special=False))
        ]
        """The texts that the vocabulary itself joins to control tokens; a space stays inside of them."""

    def encode(self, text: str, *, adds_special: bool) -> list[int]:
        """Return the tokens of a prompt. Raises `InvalidRequest`."""
        for mark in self._spaced:
            text = text.replace(broken(mark), f"{mark[0]} {mark[1:]}")
        return _encoded(self._tokenizer, text, adds_special=adds_special)


def _encoded(tokenizer: Tokenizer, text: str, *, adds_special: bool) -> list[int]:
    try:
        # alone among the library's ways it lets other threads run: 40,000 words held them up for 185 ms
        (made,) = tokenizer.encode_batch_fast([text], add_special_tokens=adds_special)
    except Exception as exc:
        raise InvalidRequest(f"the prompt cannot be made into tokens: {str(exc)[:200]}") from exc
    return made.ids


class AnswerText(TokenText):
    """The text of one answer, which never ends within a character.

    A token's text depends on the tokens before it: a space may be dropped at the beginning. So each piece is what the tokens since the
    piece before the last one add to that one. The library's own stream does the same, but holds back bytes that are no text without end.
    """

    __slots__ = ("_before", "_before_text", "_held", "_shown", "_tokenizer")

    def __init__(self, tokenizer: GenerationTokenizer, shown: Mapping[int, str]) -> None:
        self._tokenizer = tokenizer
        self._shown = shown
        self._before: list[int] = []
        """The tokens of the last piece that was given out."""
        self._before_text = ""
        """The text of these alone."""
        self._held: list[int] = []
        """The tokens since."""

    @override
    def push(self, token: int) -> str:
        if token in self._shown:
            return self.flush() + self._shown[token]
        self._held.append(token)
        return self._piece(is_last=len(self._held) > MOST_HELD)

    @override
    def flush(self) -> str:
        return self._piece(is_last=True) if self._held else ""

    def _piece(self, *, is_last: bool) -> str:
        tokenizer, held = self._tokenizer, self._held
        text = tokenizer.decode([*self._before, *held])
        if len(text) <= len(self._before_text) and not is_last:
            return ""
        if text.endswith(_BROKEN) and not is_last:
            return ""
        piece = text[len(self._before_text) :]
        self._before, self._held = held, []
        is_one = len(held) == 1
        self._before_text = tokenizer.token_text(held[0]) if is_one else tokenizer.decode(held)
        return piece
