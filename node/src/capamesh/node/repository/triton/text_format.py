"""Protobuf's text format as a tree of fields, without a schema: a strict tokenizer and parser. Pure.

Source: protobuf.dev, "Text Format Language Specification". Read are messages in `{ }` or `< >`, lists,
comments, adjacent strings, and `,` or `;` after a field. Extension and Any names in brackets are refused.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from capamesh.protocol.errors import ModelInvalid

MAX_DEPTH: Final = 32  # guess: four times the nesting of Triton's deepest message
MAX_SCALAR_CHARS: Final = 4096  # guess: far over any name or file name
_SHOWN_CHARS: Final = 40  # guess: enough to find the place again

_TOKEN: Final = re.compile(
    r"""
      (?P<blank>  [ \t\r\n\v\f]+ | \#[^\n]* )
    | (?P<word>   [A-Za-z_][A-Za-z0-9_]* )
    | (?P<number> (?: 0[xX][0-9a-fA-F]+ | (?: [0-9]+\.?[0-9]* | \.[0-9]+ )(?: [eE][+-]?[0-9]+ )?[fF]? )
                  (?![A-Za-z0-9_.]) )
    | (?P<string> "(?: [^"\\\n] | \\[^\n] )*" | '(?: [^'\\\n] | \\[^\n] )*' )
    | (?P<mark>   [{}<>\[\]:,;-] )
    """,
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(
    rb"\\(?: ([abfnrtv?\\'\"]) | ([0-7]{1,3}) | [xX]([0-9a-fA-F]{1,2}) | u([0-9a-fA-F]{4})"
    rb" | U([0-9a-fA-F]{8}) | (.|$) )",
    re.VERBOSE,
)
_SIMPLE_ESCAPES: Final = dict(
    zip(b"abfnrtv?\\'\"", b"\a\b\f\n\r\t\v?\\'\"", strict=True)
)  # of characters' codes
_CLOSING: Final = {"{": "}", "<": ">"}


class ScalarKind(enum.Enum):
    """How a scalar is written, which is all that can be known without a schema."""

    STRING = enum.auto()
    NUMBER = enum.auto()
    WORD = enum.auto()
    """An identifier: an enum's value, true, false, inf, nan."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One scalar: a string's value, or a number or word as it is written, `-` in front."""

    kind: ScalarKind
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Field:
    """One occurrence of a field."""

    name: str
    values: tuple[Scalar | Message, ...]
    """One, or as many as its list has."""
    is_list: bool
    line: int


@dataclass(frozen=True, slots=True)
class Message:
    """The fields of a message in their order."""

    fields: tuple[Field, ...]
    line: int


def parse_text(text: str, file: str) -> Message:
    """Return the message in `text`. Raises ModelInvalid, which names `file` and the line."""
    return _Parser(text, file).whole()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def _tokens(text: str, file: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            rest = text[position : position + _SHOWN_CHARS].partition("\n")[0]
            raise ModelInvalid(f"{file}, line {line}: cannot read {rest!r}")
        kind = str(match.lastgroup)
        if kind != "blank":
            tokens.append(_Token(kind, match[0], line))
        line += match[0].count("\n")
        position = match.end()
    tokens.append(_Token("end", "", line))
    return tokens


class _Parser:
    """Recursive descent, bounded by MAX_DEPTH."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._tokens = _tokens(text, file)
        self._index = 0

    def whole(self) -> Message:
        return self._message(closing="", depth=0)

    def _message(self, closing: str, depth: int) -> Message:
        line = self._next.line
        if depth > MAX_DEPTH:
            raise self._error(f"messages nest deeper than {MAX_DEPTH}", line)
        fields: list[Field] = []
        while not self._is_at(closing):
            fields.append(self._field(depth))
            _ = self._accept(",") or self._accept(";")
        self._take()
        return Message(tuple(fields), line)

    def _field(self, depth: int) -> Field:
        name = self._take()
        if name.kind != "word":
            raise self._expected("a field's name", name)
        has_colon = self._accept(":")
        if not self._accept("["):
            return Field(name.text, (self._value(depth, has_colon),), is_list=False, line=name.line)
        values: list[Scalar | Message] = []
        while not self._is_at("]"):
            if values and not self._accept(","):
                raise self._expected("',' or ']'", self._next)
            values.append(self._value(depth, has_colon))
        self._take()
        return Field(name.text, tuple(values), is_list=True, line=name.line)

    def _value(self, depth: int, has_colon: bool) -> Scalar | Message:
        token = self._next
        if token.kind == "mark" and token.text in _CLOSING:
            self._take()
            return self._message(_CLOSING[token.text], depth + 1)
        if not has_colon:
            raise self._expected("':' or '{'", token)
        return self._scalar()

    def _scalar(self) -> Scalar:
        sign = "-" if self._accept("-") else ""
        token = self._take()
        if token.kind == "string" and not sign:
            raw = self._unescaped(token)
            while self._next.kind == "string":
                raw += self._unescaped(self._take())
            try:
                value, kind = raw.decode("utf-8"), ScalarKind.STRING
            except UnicodeDecodeError as exc:
                raise self._error("a string is not UTF-8", token.line) from exc
        elif token.kind == "number":
            value, kind = sign + token.text, ScalarKind.NUMBER
        elif token.kind == "word":
            value, kind = sign + token.text, ScalarKind.WORD
        else:
            raise self._expected("a value", token)
        if len(value) > MAX_SCALAR_CHARS:
            raise self._error(
                f"a value of {len(value)} characters, at most {MAX_SCALAR_CHARS} are allowed",
                token.line,
            )
        return Scalar(kind, value, token.line)

    def _unescaped(self, token: _Token) -> bytes:
        """Return the bytes that a quoted string stands for."""

        def replaced(match: re.Match[bytes]) -> bytes:
            simple, octal, hexadecimal, short, long, _ = match.groups()
            if simple is not None:
                return bytes([_SIMPLE_ESCAPES[simple[0]]])
            if octal is not None and int(octal, 8) < 256:
                return bytes([int(octal, 8)])
            if hexadecimal is not None:
                return bytes([int(hexadecimal, 16)])
            code = int(short or long or b"110000", 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise self._error(f"unknown escape {match[0].decode()!r}", token.line)
            return chr(code).encode()

        return _ESCAPE.sub(replaced, token.text[1:-1].encode())

    @property
    def _next(self) -> _Token:
        return self._tokens[self._index]

    def _take(self) -> _Token:
        token = self._tokens[self._index]
        if token.kind != "end":
            self._index += 1
        return token

    def _is_at(self, mark: str) -> bool:
        """Whether `mark` comes next, "" standing for the end of the file."""
        token = self._next
        if token.kind == "end" and mark:
            raise self._expected(repr(mark), token)
        return token.kind in {"mark", "end"} and token.text == mark

    def _accept(self, mark: str) -> bool:
        token = self._next
        if token.kind == "mark" and token.text == mark:
            self._index += 1
            return True
        return False

    def _expected(self, what: str, token: _Token) -> ModelInvalid:
        found = repr(token.text[:_SHOWN_CHARS]) if token.text else "the end of the file"
        return self._error(f"expected {what}, found {found}", token.line)

    def _error(self, reason: str, line: int) -> ModelInvalid:
        return ModelInvalid(f"{self._file}, line {line}: {reason}")
