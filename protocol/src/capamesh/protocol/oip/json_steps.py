"""Long JSON, read in short steps: a parser of C holds the interpreter until it has read all that it was given. Pure.

A tensor's `data` alone may be long. All else in a request is parsed value by value, each within `MAX_VALUE_CHARS`;
`data` is left as text, of which `long_data` reads a piece at a time. Nothing is read that is more than asked for: the
brackets and commas of `data` are compared with those of its shape, which alone says what they have to be.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, cast

from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.oip.json_text import DECODER, parse_object

if TYPE_CHECKING:
    from capamesh.protocol.steps import Steps

AT_ONCE_BYTES: Final = 64 * 1024
"""JSON up to that is parsed in one call (measured: 1.2 ms for the worst of it, `[],[],...`)."""
MAX_VALUE_CHARS: Final = 64 * 1024
"""The most characters of a value other than a tensor's data (guess: parameters and names have some hundreds)."""
MAX_DEPTH: Final = 33
"""Lists in lists in `data`: a tensor has at most 32 dimensions, and a mistake deserves to hear of its shape."""
_FIRST_TRY_CHARS: Final = 256
"""Most values are shorter, and to copy more of the text for each would cost more than to parse it."""
_WINDOW_CHARS: Final = 16 * 1024
"""The characters of `data` that are looked through in a step."""
TOKENS_CHARS: Final = 4 * 1024
"""The characters that are looked through in a step if there are strings in them."""
_MOST_KEYS: Final = 256
"""The most keys of one object (guess: the protocol knows five)."""
_VALUES_A_STEP: Final = 512
"""Short values that are parsed in a step (measured: 1 to 2 µs each)."""
_ENDS: Final = frozenset(" \t\n\r,:]}")
"""The characters that may follow a value."""
_SPACE: Final = re.compile(r"[ \t\n\r]*")
TOKENS: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
"""Whole strings, a quotation mark whose string does not end here, and what gives lists their structure."""


class LongData:
    """A tensor's `data`, still text: a list from `start` to `end` of a request's JSON."""

    __slots__ = ("end", "long_strings", "start", "text")

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.start = self.end = start
        self.long_strings: dict[int, int] = {}
        """The ends of strings that may be longer than a window, by where they begin."""


def parse_in_steps(raw: memoryview, most_items: int) -> Steps[dict[str, object]]:
    """Return the request that `raw` is, in steps; each tensor's `data` that is a list is `LongData`.

    A list of inputs or outputs is not followed further than `most_items` and one. Of a repeated key, the last value
    counts.

    Raises:
        InvalidRequest: Not UTF-8, not JSON, or something else than an object.
        TooLarge: A value other than `data` is long.
    """
    if len(raw) <= AT_ONCE_BYTES:
        return parse_object(raw)
    try:
        text = str(raw, "utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidRequest(
            f"the JSON is not UTF-8: {exc.reason} at byte {exc.start} of {len(raw)}"
        ) from exc
    reader = _Reader(text, most_items)
    message = yield from reader.request()
    reader.expect_end()
    return message


class _Reader:
    """Reads one request; `_at` is where it is in the text."""

    __slots__ = ("_at", "_most_items", "_text", "_values")

    def __init__(self, text: str, most_items: int) -> None:
        self._text = text
        self._most_items = most_items
        self._at: int = 0
        self._values = 0

    def request(self) -> Steps[dict[str, object]]:
        message: dict[str, object] = {}
        if not self._begins("{"):
            raise InvalidRequest(f"the JSON must be an object, got {self._shown()}")
        self._expect("{")
        if self._takes("}"):
            return message
        for _ in range(_MOST_KEYS):
            key = self._key()
            if key == "inputs" and self._begins("["):
                message[key] = yield from self._list(are_tensors=True)
            elif key == "outputs" and self._begins("["):
                message[key] = yield from self._list(are_tensors=False)
            else:
                message[key] = self._value(key)
            yield from self._rest()
            if self._takes("}"):
                return message
            self._expect(",")
        raise self._too_many_keys()

    def expect_end(self) -> None:
        self._skip_space()
        if self._at < len(self._text):
            raise self._not_json("Extra data")

    def _list(self, *, are_tensors: bool) -> Steps[list[object]]:
        items: list[object] = []
        self._expect("[")
        if self._takes("]"):
            return items
        while True:
            whole = self._short_value() if are_tensors else self._value("outputs")
            items.append((yield from self._tensor()) if whole is None else whole)
            yield from self._rest()
            if self._takes("]"):
                return items
            if len(items) > self._most_items:
                raise TooLarge(
                    f"more than {self._most_items} inputs or outputs, which is the limit"
                )
            self._expect(",")

    def _tensor(self) -> Steps[dict[str, object]]:
        fields: dict[str, object] = {}
        if not self._begins("{"):
            raise InvalidRequest(f"inputs must be objects, got {self._shown()}")
        self._expect("{")
        if self._takes("}"):
            return fields
        for _ in range(_MOST_KEYS):
            key = self._key()
            if key == "data" and self._begins("["):
                data = LongData(self._text, self._at)
                yield from self._skip_list(data)
                data.end = self._at
                fields[key] = data
            else:
                fields[key] = self._value(key)
            yield from self._rest()
            if self._takes("}"):
                return fields
            self._expect(",")
        raise self._too_many_keys()

    def _skip_list(self, data: LongData) -> Steps[None]:
        """Go behind the list that begins here. Whether it is JSON is found out when it is read."""
        text, depth = self._text, 0
        while True:
            window = text[self._at : self._at + _WINDOW_CHARS]
            behind = depth + window.count("[") - window.count("]")
            if behind > 0 and '"' not in window and "{" not in window and "}" not in window:
                # what follows a list has one of these: this one goes on, or is no JSON, which is seen when it is read
                depth = behind
                self._at += len(window)
            else:
                depth = self._skip_tokens(depth, data)
            if depth <= 0 or not window:
                break
            if depth > MAX_DEPTH:
                raise self._not_json(f"data with lists nested over {MAX_DEPTH} deep")
            yield
        if depth:
            raise self._not_json("a list without an end")

    def _skip_tokens(self, depth: int, data: LongData) -> int:
        """Go on in a window with strings; return the depth behind it, 0 behind the list."""
        text, start = self._text, self._at
        end = min(start + TOKENS_CHARS, len(text))
        for token in TOKENS.finditer(text, start, end):
            match token[0]:
                case "[":
                    depth += 1
                case "]":
                    depth -= 1
                    if depth <= 0:
                        self._at = token.end()
                        return 0
                case '"':  # of a string that is longer than the window
                    self._at = data.long_strings[token.start()] = string_end(text, token.start())
                    return depth
                case "{" | "}":
                    self._at = token.start()
                    raise self._not_json("an object in a tensor's data")
                case _:
                    pass
        self._at = end
        return depth

    # values

    def _key(self) -> str:
        key = self._value("a key") if self._begins('"') else None
        if not isinstance(key, str):
            raise self._not_json("Expecting property name enclosed in double quotes")
        self._expect(":")
        return key

    def _short_value(self) -> object:
        """Return the value that begins here if it is short and ends soon, else None."""
        self._skip_space()
        window = self._text[self._at : self._at + _FIRST_TRY_CHARS]
        try:
            value, length = DECODER.raw_decode(window)
        except (ValueError, RecursionError):  # maybe it just does not end here
            return None
        if window[length : length + 1] not in _ENDS:  # "12." is the beginning of a number
            return None
        self._at += length
        self._values += 1
        return cast("object", value)

    def _value(self, of: str) -> object:
        """Return the value that begins here, which may not be long."""
        value = self._short_value()
        if value is not None:
            return value
        text, start = self._text, self._at
        window = text[start : start + MAX_VALUE_CHARS]
        is_rest = start + len(window) == len(text)
        try:
            value, length = DECODER.raw_decode(window)
        except RecursionError as exc:
            raise InvalidRequest("the JSON is nested too deeply; flatten it") from exc
        except json.JSONDecodeError as exc:
            if is_rest or not exc.pos:
                self._at = start + exc.pos
                raise self._not_json(exc.msg) from exc
        except ValueError as exc:
            raise InvalidRequest(f"the JSON has a number that is too long: {exc}") from exc
        else:
            if is_rest or window[length : length + 1] in _ENDS:
                self._at = start + length
                self._values += 1
                return cast("object", value)
        raise TooLarge(
            f"the value of {of[:80]!r}, at character {start} of {len(text)}, is not JSON or longer than"
            f" {MAX_VALUE_CHARS} characters, the limit of all but a tensor's data"
        )

    def _rest(self) -> Steps[None]:
        """Yield if enough was done."""
        if self._values >= _VALUES_A_STEP:
            self._values = 0
            yield

    def _skip_space(self) -> None:
        space = _SPACE.match(self._text, self._at)
        if space is not None:
            self._at = space.end()

    def _begins(self, mark: str) -> bool:
        self._skip_space()
        return self._text.startswith(mark, self._at)

    def _takes(self, mark: str) -> bool:
        if not self._begins(mark):
            return False
        self._at += 1
        return True

    def _expect(self, mark: str) -> None:
        if not self._takes(mark):
            raise self._not_json(f"Expecting '{mark}'")

    def _too_many_keys(self) -> TooLarge:
        return TooLarge(f"an object of the JSON has more than {_MOST_KEYS} keys, the limit")

    def _shown(self) -> str:
        return repr(self._text[self._at : self._at + 40])

    def _not_json(self, why: str) -> InvalidRequest:
        return InvalidRequest(f"not JSON: {why} at character {self._at} of {len(self._text)}")


def string_end(text: str, start: int) -> int:
    """Return where the string ends whose quotation mark is at `start` (measured: 11 ms for 4 MiB of escapes).

    Raises InvalidRequest: It does not end, or is no JSON.
    """
    try:
        return DECODER.raw_decode(text, start)[1]
    except json.JSONDecodeError as exc:
        raise InvalidRequest(f"not JSON: {exc.msg} at character {exc.pos} of {len(text)}") from exc
