"""Grammars that answers follow: JSON, a JSON schema, a regular expression, choices, Lark or GBNF. Pure but for the library.

A grammar is compiled once, with the tokens that may come first, and copied for each choice; the library counts the work of both, so that none takes
long. The last ones are kept, each for the tenant whose it is, and one is compiled at a time: what is left of the cores is the runs'.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
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
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from llguidance._lib import JsonCompileOptions

GrammarKind = Literal["json", "json_schema", "regex", "choice", "lark", "tools"]
MAX_GRAMMAR_CHARACTERS: Final = 256 * 1024
"""The most characters of a grammar (guess)."""
MAX_PATTERN_CHARACTERS: Final = 8192
"""The most characters of a client's regular expression or rules (measured: without bounds 16,000 take eight seconds and a gigabyte)."""
REGEX_FUEL: Final = 64_000
"""The size of a client's regular expression in the library's units (measured: the worst then takes 20 ms)."""
RULES_FUEL: Final = 16_000
"""The size of a client's rules, which can double at each line (measured: the worst then takes two seconds; \\w in a terminal needs as much)."""
STEP_FUEL: Final = 50_000
"""The work for one mask in the library's units (guess: four milliseconds)."""
MOST_STATES: Final = 10_000
"""The most states that one answer finds in its grammar (guess: 20 MB, by the library's figures)."""
MOST_KEPT: Final = 32
"""The most grammars that are kept compiled (guess: the forms of some applications)."""
MOST_KEPT_CHARACTERS: Final = 2 * MAX_GRAMMAR_CHARACTERS
"""The most characters of all that are kept (guess)."""
ANY_JSON: Final[dict[str, Any]] = {"type": "object"}
"""The schema of JSON mode: any object."""
_SILENT: Final = 0
"""The level of the library's log."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The grammar of an answer.

    Of the kind "json", which is any object, `text` says nothing; "choice" is a regular expression and "tools" Lark of our own; "lark" may be GBNF.
    """

    kind: GrammarKind
    text: str = ""


class _Compiled:
    """A grammar, ready to be copied."""

    __slots__ = ("characters", "first", "matcher")

    def __init__(self, matcher: LLMatcher, first: npt.NDArray[np.bool_], characters: int) -> None:
        """`first` says which tokens may come first, in the shape [vocabulary]; nobody changes it."""
        self.matcher = matcher
        self.first = first
        self.characters = characters


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
        limits = partial(
            llguidance.LLParserLimits, max_lexer_states=MOST_STATES, verbose_errors=False
        )
        self._limits = limits()
        self._pattern_limits: dict[GrammarKind, LLParserLimits] = {
            "regex": limits(initial_lexer_fuel=REGEX_FUEL, step_lexer_fuel=STEP_FUEL),
            "lark": limits(initial_lexer_fuel=RULES_FUEL, step_lexer_fuel=STEP_FUEL),
        }
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
        self._kept: OrderedDict[bytes, _Compiled] = OrderedDict()
        """The compiled grammars by their digests, the newest last."""
        self._kept_characters = 0
        self._lock = threading.Lock()
        """Held while `_kept` is looked at or changed."""
        self._compiling = threading.Lock()
        """Held while a grammar is compiled."""

    def is_no_text(self, token: int) -> bool:
        """Return whether a grammar takes `token` by its number alone, for no text can be it."""
        return token < self._vocabulary and self._tokenizer.is_special_token(token)

    def compile(
        self, grammar: Grammar, choices: int = 1, tenant: str = ""
    ) -> Callable[[], GrammarConstraint]:
        """Return what gives the constraint of one choice, for so many of them. Blocks: a schema takes ten milliseconds, the worst a second.

        What is kept is kept for each `tenant` apart: how long it takes tells what came before.

        Raises:
            InvalidRequest: the grammar is none, or has what is not supported.
            TooLarge: it is over the limit.
        """
        is_pattern = grammar.kind in self._pattern_limits
        most = MAX_PATTERN_CHARACTERS if is_pattern else MAX_GRAMMAR_CHARACTERS
        if len(grammar.text) > most:
            raise TooLarge(
                f"the {grammar.kind} of the answer has {len(grammar.text)} characters; it may have {most}"
            )
        key = _key(grammar, tenant)
        compiled = self._find(key)
        if compiled is None:
            if grammar.kind == "json_schema":
                check_schema_text(grammar.text)
            elif grammar.kind == "lark":
                grammar = Grammar("lark", as_lark(grammar.text))
                check_rules(grammar.text)
            with self._compiling:
                compiled = self._find(key)  # another may have wanted the same
                if compiled is None:
                    compiled = self._compiled(grammar)
            self._keep(key, compiled)
        # copied here, and not in the thread of the runs
        made = [
            GrammarConstraint(compiled.matcher.deep_copy(), compiled.first) for _ in range(choices)
        ]
        return made.pop

    def _compiled(self, grammar: Grammar) -> _Compiled:
        kinds = self._matcher
        spaces: JsonCompileOptions = {"whitespace_pattern": SPACES}
        make: dict[GrammarKind, Callable[[str], str]] = {
            "json": lambda _: kinds.grammar_from_json_schema(json.dumps(ANY_JSON), spaces),
            "json_schema": lambda schema: kinds.grammar_from_json_schema(schema, spaces),
            "regex": kinds.grammar_from_regex,
            "choice": kinds.grammar_from_regex,
            "lark": kinds.grammar_from_lark,
            "tools": kinds.grammar_from_lark,
        }
        limits = self._pattern_limits.get(grammar.kind, self._limits)
        try:
            text = make[grammar.kind](grammar.text)
            matcher = kinds(self._tokenizer, text, log_level=_SILENT, limits=limits)
            error = matcher.get_error()
        except ValueError as exc:
            error = str(exc)
        else:
            if not error:
                first = _mask_of(matcher, self._vocabulary)
                first.flags.writeable = False
                error = matcher.get_error()
                if not error:
                    return _Compiled(matcher, first, len(grammar.text))
        raise InvalidRequest(f"the {grammar.kind} of the answer cannot be used: {error[:500]}")

    def _find(self, key: bytes) -> _Compiled | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def _keep(self, key: bytes, compiled: _Compiled) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept_characters += compiled.characters
            self._kept[key] = compiled
            while len(self._kept) > MOST_KEPT or self._kept_characters > MOST_KEPT_CHARACTERS:
                _, oldest = self._kept.popitem(last=False)
                self._kept_characters -= oldest.characters


class GrammarConstraint(Constraint):
    """One answer's place in its grammar."""

    def __init__(self, matcher: LLMatcher, first: npt.NDArray[np.bool_]) -> None:
        """`first` says which tokens may come where `matcher` is, in the shape [vocabulary]."""
        self._matcher = matcher
        self._vocabulary = len(first)
        self._mask: npt.NDArray[np.bool_] | None = first

    @override
    def prepare(self) -> None:
        if self._mask is None:
            self._mask = _mask_of(self._matcher, self._vocabulary)

    @override
    def mask(self) -> npt.NDArray[np.bool_]:
        self.prepare()
        error = self._matcher.get_error()
        if error or self._mask is None:
            raise self._too_complex()
        return self._mask

    def _too_complex(self) -> InvalidRequest:
        error = self._matcher.get_error()
        return InvalidRequest(f"the grammar of the answer is too complex: {error[:500]}")

    @override
    def accept(self, token: int) -> None:
        mask, self._mask = self._mask, None
        if not self._matcher.consume_token(token):
            if mask is not None and mask[token]:  # it follows, and the work on it is over a limit
                raise self._too_complex()
            raise RunFailed(
                f"token {token} does not follow the grammar: {self._matcher.get_error()[:200]}"
            )

    @property
    @override
    def is_complete(self) -> bool:
        return self._matcher.is_stopped()


def as_lark(rules: str) -> str:
    """Return rules as Lark: those that have no `start` are GBNF, as llama.cpp's. Raises `InvalidRequest`: they are neither."""
    from llguidance.gbnf_to_lark import (  # noqa: PLC0415 - a node without texts goes without
        any_to_lark,
    )

    try:
        return any_to_lark(rules)
    except Exception as exc:  # the library raises this very class for a rule that is missing
        raise InvalidRequest(
            f"the grammar is neither Lark, for it has no start:, nor GBNF: {str(exc)[:200]}"
        ) from exc


def _key(grammar: Grammar, tenant: str) -> bytes:
    digest = blake2b(f"{grammar.kind}\n{tenant}\n".encode("utf-8", "surrogatepass"), digest_size=32)
    digest.update(grammar.text.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _mask_of(matcher: LLMatcher, vocabulary: int) -> npt.NDArray[np.bool_]:
    """Return which tokens may come next, in the shape [vocabulary]; other threads run meanwhile."""
    bits: Any = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(bits, count=vocabulary, bitorder="little").view(np.bool_)
