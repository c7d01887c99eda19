"""Takes checked values out of one message of a `config.pbtxt` and says what is wrong with one. Pure.

protobuf has checked every value's type by then (`text`); here are the limits. Every complaint is a ModelInvalid
that names the file, the line, the field's path, the value and what is expected. As in protobuf, a field that is
missing is 0, "" or false.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar, cast

from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.message import Message as ProtobufMessage

_Choice = TypeVar("_Choice")

_SHOWN_CHARS: Final = 80  # guess: enough to find the value again


@dataclass(slots=True)
class Place:
    """The places of one message's fields in the file, those too that are not read."""

    lines: dict[str, int] = field(default_factory=dict)
    """The first line of each field that is there."""
    inner: dict[str, list[Place]] = field(default_factory=dict)
    """The messages of each field, in their order."""


class Message:
    """One message of a file; `path` is its field path, empty at the top."""

    def __init__(self, values: ProtobufMessage, place: Place, file: str, path: str = "") -> None:
        """Take the `values` that protobuf has read at `place`."""
        self._values = values
        self._place = place
        self._file = file
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._place.lines

    def refused(self, name: str, reason: str) -> ModelInvalid:
        """Return the complaint that the field `name` is refused for `reason`."""
        return complaint(
            self._file, self._place.lines.get(name), f"{field_path(self._path, name)}: {reason}"
        )

    def text(self, name: str, max_chars: int) -> str:
        """Return the string `name`."""
        value = cast("str", self._value(name))
        if len(value) > max_chars:
            raise self._wrong(name, repr(value), f"a quoted text of at most {max_chars} characters")
        return value

    def flag(self, name: str) -> bool:
        """Return the bool `name`."""
        return name in self and cast("bool", self._value(name))

    def integer(self, name: str, low: int, high: int) -> int:
        """Return the whole number `name`, which where it is there must be from `low` to `high`; else 0."""
        if name not in self:
            return 0
        return self._checked_integer(name, cast("int", self._value(name)), low, high)

    def integers(self, name: str, low: int, high: int, max_count: int) -> tuple[int, ...]:
        """Return the repeated whole number `name`, each from `low` to `high`."""
        values = cast("Sequence[int]", self._counted(name, max_count))
        return tuple(self._checked_integer(name, one, low, high) for one in values)

    def numbers(self, name: str, max_count: int) -> tuple[float, ...]:
        """Return the repeated number `name`, each finite."""
        values = tuple(cast("Sequence[float]", self._counted(name, max_count)))
        for value in values:
            if not math.isfinite(value):
                raise self._wrong(name, str(value), "a finite number")
        return values

    def flags(self, name: str, max_count: int) -> tuple[bool, ...]:
        """Return the repeated bool `name`."""
        return tuple(cast("Sequence[bool]", self._counted(name, max_count)))

    def choice(self, name: str, choices: dict[str, _Choice], default: _Choice) -> _Choice:
        """Return what the enum value `name` stands for; `choices` are all values of the enum in their order."""
        if name not in self:
            return default
        return list(choices.values())[cast("int", self._value(name))]

    def message(self, name: str) -> Message | None:
        """Return the message `name`, or None."""
        if name not in self:
            return None
        values = cast("ProtobufMessage", self._value(name))
        return Message(values, self._place.inner[name][0], self._file, field_path(self._path, name))

    def messages(self, name: str, max_count: int) -> list[Message]:
        """Return the repeated message `name`."""
        values = cast("Sequence[ProtobufMessage]", self._value(name))
        if len(values) > max_count:
            raise self.refused(name, f"{len(values)} of them, at most {max_count} are allowed")
        path = field_path(self._path, name)
        return [
            Message(value, place, self._file, f"{path}[{index}]")
            for index, (value, place) in enumerate(
                zip(values, self._place.inner.get(name, ()), strict=True)
            )
        ]

    def entries(self, name: str, max_count: int, max_chars: int) -> Iterator[tuple[str, Message]]:
        """Yield the keys of the map `name` with their entries, which have `key` and `value`."""
        seen: set[str] = set()
        for entry in self.messages(name, max_count):
            key = entry.text("key", max_chars)
            if not key or key in seen:
                raise self.refused(name, f"key {key!r} is empty or there twice")
            seen.add(key)
            yield key, entry

    def number_entries(self, name: str, max_count: int) -> Iterator[tuple[int, Message]]:
        """Yield the keys, whole numbers, of the map `name` with their entries, which have `key` and `value`."""
        seen: set[int] = set()
        for entry in self.messages(name, max_count):
            key = entry.integer("key", 0, 2**63 - 1)
            if key in seen:
                raise self.refused(name, f"key {key} is there twice")
            seen.add(key)
            yield key, entry

    def _value(self, name: str) -> object:
        return cast("object", getattr(self._values, name))

    def _counted(self, name: str, max_count: int) -> Sequence[object]:
        values = cast("Sequence[object]", self._value(name))
        if len(values) > max_count:
            raise self.refused(name, f"{len(values)} values, at most {max_count} are allowed")
        return values

    def _checked_integer(self, name: str, value: int, low: int, high: int) -> int:
        if not low <= value <= high:
            raise self._wrong(name, str(value), f"a whole number from {low} to {high}")
        return value

    def _wrong(self, name: str, shown: str, expected: str) -> ModelInvalid:
        return complaint(
            self._file,
            self._place.lines.get(name),
            f"{field_path(self._path, name)} is {shown[:_SHOWN_CHARS]}, expected {expected}",
        )


def complaint(file: str, line: int | None, reason: str) -> ModelInvalid:
    """Return the error that says `reason` of `line`, None standing for no certain line."""
    where = file if line is None else f"{file}, line {line}"
    return ModelInvalid(f"{where}: {reason}")


def field_path(path: str, name: str) -> str:
    """Return the path of the field `name` in the message at `path`."""
    return f"{path}.{name}" if path else name
