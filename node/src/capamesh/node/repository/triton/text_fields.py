"""Takes typed values out of a message of protobuf's text format and says what is wrong with one. Pure.

Every complaint is a ModelInvalid that names the file, the line, the field's path, the value and what is
expected. As in protobuf, a field that is no list may be there once, and one that is missing is 0, "" or false.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

from capamesh.node.repository.triton.text_format import Field, Message, Scalar, ScalarKind
from capamesh.protocol.errors import ModelInvalid

_Choice = TypeVar("_Choice")

_FLAGS: Final = {
    **dict.fromkeys(("true", "True", "t", "1"), True),
    **dict.fromkeys(("false", "False", "f", "0"), False),
}  # the spellings that protobuf's own reader takes
_SHOWN_CHARS: Final = 80  # guess: enough to find the value again
_MAX_DIGITS: Final = 40  # guess: a 64-bit number in octal has 22


class Fields:
    """One message of a file; `path` is its field path, empty at the top."""

    def __init__(self, message: Message, allowed: Iterable[str], file: str, path: str = "") -> None:
        """Take `message`. Raises ModelInvalid at a field that is not `allowed`."""
        self._file = file
        self._path = path
        self._by_name: dict[str, list[Field]] = {}
        names = set(allowed)
        for field in message.fields:
            if field.name not in names:
                raise self._error(
                    field.line,
                    f"unknown field {self._field_path(field.name)[:_SHOWN_CHARS]!r}; "
                    f"known are {', '.join(sorted(names))}",
                )
            self._by_name.setdefault(field.name, []).append(field)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def refused(self, name: str, reason: str) -> ModelInvalid:
        """Return the complaint that the field `name` is refused for `reason`."""
        line = self._by_name[name][0].line if name in self._by_name else None
        return self._error(line, f"{self._field_path(name)}: {reason}")

    def text(self, name: str, max_chars: int) -> str:
        """Return the string `name`."""
        scalar = self._scalar(name)
        if scalar is None:
            return ""
        return self._checked_text(name, scalar, max_chars)

    def flag(self, name: str) -> bool:
        """Return the bool `name`."""
        scalar = self._scalar(name)
        return False if scalar is None else self._checked_flag(name, scalar)

    def integer(self, name: str, low: int, high: int) -> int:
        """Return the whole number `name`, which where it is there must be from `low` to `high`; else 0."""
        scalar = self._scalar(name)
        return 0 if scalar is None else self._checked_integer(name, scalar, low, high)

    def integers(self, name: str, low: int, high: int, max_count: int) -> tuple[int, ...]:
        """Return the repeated whole number `name`, each from `low` to `high`."""
        scalars = self._counted(name, max_count)
        return tuple(self._checked_integer(name, one, low, high) for one in scalars)

    def numbers(self, name: str, max_count: int) -> tuple[float, ...]:
        """Return the repeated number `name`, each finite."""
        scalars = self._counted(name, max_count)
        return tuple(self._checked_number(name, one) for one in scalars)

    def flags(self, name: str, max_count: int) -> tuple[bool, ...]:
        """Return the repeated bool `name`."""
        return tuple(self._checked_flag(name, one) for one in self._counted(name, max_count))

    def choice(self, name: str, choices: dict[str, _Choice], default: _Choice) -> _Choice:
        """Return what the enum value `name` stands for."""
        scalar = self._scalar(name)
        if scalar is None:
            return default
        if scalar.kind is not ScalarKind.WORD or scalar.text not in choices:
            raise self._wrong(name, scalar, f"one of {', '.join(choices)}")
        return choices[scalar.text]

    def message(self, name: str, allowed: Sequence[str]) -> Fields | None:
        """Return the message `name`, or None."""
        values = self._one(name)
        if values is None:
            return None
        return self._checked_message(name, values, allowed, self._field_path(name))

    def messages(self, name: str, allowed: Sequence[str], max_count: int) -> list[Fields]:
        """Return the repeated message `name`."""
        values = list(self._values(name))
        if len(values) > max_count:
            raise self.refused(name, f"{len(values)} of them, at most {max_count} are allowed")
        return [
            self._checked_message(name, value, allowed, f"{self._field_path(name)}[{index}]")
            for index, value in enumerate(values)
        ]

    def entries(self, name: str, max_count: int, max_chars: int) -> Iterator[tuple[str, Fields]]:
        """Yield the keys of the map `name` with their entries, which have `key` and `value`."""
        seen: set[str] = set()
        for entry in self.messages(name, ("key", "value"), max_count):
            key = entry.text("key", max_chars)
            if not key or key in seen:
                raise self.refused(name, f"key {key!r} is empty or there twice")
            seen.add(key)
            yield key, entry

    def number_entries(self, name: str, max_count: int) -> Iterator[tuple[int, Fields]]:
        """Yield the keys, whole numbers, of the map `name` with their entries, which have `key` and `value`."""
        seen: set[int] = set()
        for entry in self.messages(name, ("key", "value"), max_count):
            key = entry.integer("key", 0, 2**64 - 1)
            if key in seen:
                raise self.refused(name, f"key {key} is there twice")
            seen.add(key)
            yield key, entry

    def _values(self, name: str) -> Iterator[Scalar | Message]:
        for field in self._by_name.get(name, ()):
            yield from field.values

    def _one(self, name: str) -> Scalar | Message | None:
        fields = self._by_name.get(name, [])
        if not fields:
            return None
        if len(fields) > 1 or fields[0].is_list:
            raise self.refused(name, "is no list; give it once and without brackets")
        return fields[0].values[0]

    def _scalars(self, name: str) -> Iterator[Scalar]:
        for value in self._values(name):
            if isinstance(value, Message):
                raise self._wrong(name, value, "a value")
            yield value

    def _counted(self, name: str, max_count: int) -> list[Scalar]:
        scalars = list(self._scalars(name))
        if len(scalars) > max_count:
            raise self.refused(name, f"{len(scalars)} values, at most {max_count} are allowed")
        return scalars

    def _scalar(self, name: str) -> Scalar | None:
        value = self._one(name)
        if isinstance(value, Message):
            raise self._wrong(name, value, "a value")
        return value

    def _checked_message(
        self, name: str, value: Scalar | Message, allowed: Sequence[str], path: str
    ) -> Fields:
        if isinstance(value, Scalar):
            raise self._wrong(name, value, "a message in braces")
        return Fields(value, allowed, self._file, path)

    def _checked_text(self, name: str, scalar: Scalar, max_chars: int) -> str:
        if scalar.kind is not ScalarKind.STRING or len(scalar.text) > max_chars:
            raise self._wrong(name, scalar, f"a quoted text of at most {max_chars} characters")
        return scalar.text

    def _checked_integer(self, name: str, scalar: Scalar, low: int, high: int) -> int:
        value = _integer(scalar)
        if value is None or not low <= value <= high:
            raise self._wrong(name, scalar, f"a whole number from {low} to {high}")
        return value

    def _checked_number(self, name: str, scalar: Scalar) -> float:
        value = math.nan
        if scalar.kind is ScalarKind.NUMBER:
            whole = _integer(scalar)
            try:
                value = float(scalar.text.rstrip("fF")) if whole is None else float(whole)
            except ValueError:
                value = math.nan
        if not math.isfinite(value):
            raise self._wrong(name, scalar, "a finite number")
        return value

    def _checked_flag(self, name: str, scalar: Scalar) -> bool:
        if scalar.kind is ScalarKind.STRING or scalar.text not in _FLAGS:
            raise self._wrong(name, scalar, "true or false")
        return _FLAGS[scalar.text]

    def _wrong(self, name: str, value: Scalar | Message, expected: str) -> ModelInvalid:
        what = "a message"
        if isinstance(value, Scalar):
            quoted = value.kind is ScalarKind.STRING
            what = (repr(value.text) if quoted else value.text)[:_SHOWN_CHARS]
        return self._error(value.line, f"{self._field_path(name)} is {what}, expected {expected}")

    def _error(self, line: int | None, reason: str) -> ModelInvalid:
        where = self._file if line is None else f"{self._file}, line {line}"
        return ModelInvalid(f"{where}: {reason}")

    def _field_path(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def _integer(scalar: Scalar) -> int | None:
    """Return the whole number that `scalar` is: decimal, 0x hexadecimal or 0 octal; None for none."""
    if scalar.kind is not ScalarKind.NUMBER or len(scalar.text) > _MAX_DIGITS:
        return None
    digits = scalar.text.removeprefix("-")
    is_octal = len(digits) > 1 and digits[0] == "0" and digits.isdecimal()
    try:
        value = int(digits, 8 if is_octal else 0)
    except ValueError:
        return None
    return -value if scalar.text.startswith("-") else value
