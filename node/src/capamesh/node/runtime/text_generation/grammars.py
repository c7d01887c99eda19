"""Grammars that answers follow: JSON, a JSON schema, a regular expression, Lark. Pure but for the library.

A grammar is compiled once for a request and copied for each choice; the library counts the work of both, so that none takes long.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from capamesh.node.generation import Constraint
from capamesh.node.runtime.text_generation.grammar_bounds import check_rules, check_schema_text
from capamesh.node.runtime.text_generation.packages import missing
from capamesh.node.runtime.text_generation.tool_grammar import SPACES
from capamesh.protocol.errors import InvalidRequest, ModelInvalid, RunFailed, TooLarge

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

GrammarKind = Literal["json", "json_schema", "regex", "lark", "tools"]
MAX_GRAMMAR_CHARACTERS: Final = 256 * 1024
"""The most characters of a grammar (guess)."""
ANY_JSON: Final[dict[str, Any]] = {"type": "object"}
"""The schema of JSON mode: any object."""
_SILENT: Final = 0
"""The level of the library's log."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The grammar of an answer; of the kind "json", which is any object, `text` says nothing; "tools" is Lark of our own."""

    kind: GrammarKind
    text: str = ""


class Grammars:
    """The grammars over one model's tokens. Safe to use from several threads at once."""

    def __init__(self, raw_tokenizer: bytes, vocabulary: int, end_tokens: Sequence[int]) -> None:
        """`raw_tokenizer` is the tokenizer's file; `vocabulary` the number of tokens that are scored; `end_tokens` end an answer.

        Raises `ModelInvalid`: grammars cannot be had with this tokenizer, or the package is missing.
        """
        try:
            import llguidance  # noqa: PLC0415 - a node without texts goes without
        except ImportError as exc:
            raise missing("llguidance") from exc
        self._matcher: type[LLMatcher] = llguidance.LLMatcher
        self._vocabulary = vocabulary
        if not raw_tokenizer.lstrip().startswith(b"{"):  # the library takes other texts for names
            raise ModelInvalid("grammars cannot be had with this tokenizer: it is no JSON object")
        try:
            self._tokenizer: LLTokenizer = llguidance.LLTokenizer(
                raw_tokenizer.decode("utf-8"), n_vocab=vocabulary, eos_token=list(end_tokens)
            )
        except BaseException as exc:  # a panic of Rust is no Exception
            if isinstance(exc, KeyboardInterrupt | SystemExit):
                raise
            raise ModelInvalid(
                f"grammars cannot be had with this tokenizer: {str(exc)[:200]}"
            ) from exc

    def is_no_text(self, token: int) -> bool:
        """Return whether a grammar takes `token` by its number alone, for no text can be it."""
        return token < self._vocabulary and self._tokenizer.is_special_token(token)

    def compile(self, grammar: Grammar) -> Callable[[], GrammarConstraint]:
        """Return what makes the constraint of one choice. Blocks: a schema takes a millisecond, the worst a second.

        Raises:
            InvalidRequest: the grammar is none, or has what is not supported.
            TooLarge: it is over the limit.
        """
        if len(grammar.text) > MAX_GRAMMAR_CHARACTERS:
            raise TooLarge(
                f"the grammar has {len(grammar.text)} characters; it may have {MAX_GRAMMAR_CHARACTERS}"
            )
        if grammar.kind == "json_schema":
            check_schema_text(grammar.text)
        elif grammar.kind == "lark":
            check_rules(grammar.text)
        kinds = self._matcher
        spaces: JsonCompileOptions = {"whitespace_pattern": SPACES}
        make: dict[GrammarKind, Callable[[str], str]] = {
            "json": lambda _: kinds.grammar_from_json_schema(json.dumps(ANY_JSON), spaces),
            "json_schema": lambda schema: kinds.grammar_from_json_schema(schema, spaces),
            "regex": kinds.grammar_from_regex,
            "lark": kinds.grammar_from_lark,
            "tools": kinds.grammar_from_lark,
        }
        try:
            matcher = kinds(self._tokenizer, make[grammar.kind](grammar.text), log_level=_SILENT)
            error = matcher.get_error()
        except ValueError as exc:
            error = str(exc)
        else:
            if not error:
                return lambda: GrammarConstraint(matcher.deep_copy(), self._vocabulary)
        raise InvalidRequest(f"the {grammar.kind} of the answer cannot be used: {error[:500]}")


class GrammarConstraint(Constraint):
    """One answer's place in its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._mask: npt.NDArray[np.bool_] | None = None

    @override
    def prepare(self) -> None:
        if self._mask is None:
            bits: Any = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            self._mask = np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(
                np.bool_
            )

    @override
    def mask(self) -> npt.NDArray[np.bool_]:
        self.prepare()
        error = self._matcher.get_error()
        if error or self._mask is None:
            raise InvalidRequest(f"the grammar of the answer is too complex: {error[:500]}")
        return self._mask

    @override
    def accept(self, token: int) -> None:
        self._mask = None
        if not self._matcher.consume_token(token):
            raise RunFailed(
                f"token {token} does not follow the grammar: {self._matcher.get_error()[:200]}"
            )

    @property
    @override
    def is_complete(self) -> bool:
        return self._matcher.is_stopped()
