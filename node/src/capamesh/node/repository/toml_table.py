"""Takes typed values out of a TOML table and says exactly what is wrong with one. Pure.

Every complaint is a ModelInvalid that names the file, the key's path, the value and what is expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from typing import Final, TypeVar, cast

from capamesh.protocol.errors import ModelInvalid

_Default = TypeVar("_Default")

_SHOWN_CHARS: Final = 80  # guess: enough to find the value again
_SHOWN_VALUES: Final = 8  # guess: a shape, or a short list of names
_SHOWN_INT: Final = 10**30  # guess; Python refuses to print one of more than 4,300 digits


class Table:
    """One table of a file; `path` is its key path, empty at the top."""

    def __init__(
        self, values: Mapping[str, object], allowed: Sequence[str], file: str, path: str = ""
    ) -> None:
        """Take `values`. Raises ModelInvalid at a key that is not `allowed`."""
        self._values = values
        self._file = file
        self._path = path
        for key in values:
            if key not in allowed:
                where = f"{file}: {path}" if path else file
                raise ModelInvalid(
                    f"{where}: unknown key {key[:_SHOWN_CHARS]!r}; allowed keys are "
                    f"{', '.join(allowed)}"
                )

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def wrong(self, key: str, value: object, expected: str) -> ModelInvalid:
        """Return the complaint that `value` at `key` is not `expected`."""
        return ModelInvalid(f"{self._where(key)} is {shown(value)}, expected {expected}")

    def refused(self, key: str, reason: str) -> ModelInvalid:
        """Return the complaint that what stands at `key` is refused for `reason`."""
        return ModelInvalid(f"{self._where(key)}: {reason}")

    def need(self, *keys: str) -> None:
        """Raise ModelInvalid where one of `keys` is missing."""
        for key in keys:
            if key not in self._values:
                raise ModelInvalid(f"{self._where(key)} is missing; add it")

    def value(self, key: str) -> object:
        """Return what stands at `key`, or None."""
        return self._values.get(key)

    def text(self, key: str, max_chars: int, *, min_chars: int = 0) -> str:
        """Return the text at `key`, "" where it is missing."""
        value = self._values.get(key, "")
        if key in self._values and not _is_text(value, min_chars, max_chars):
            raise self.wrong(key, value, _text_expected(min_chars, max_chars))
        return cast("str", value)

    def flag(self, key: str, default: _Default) -> bool | _Default:
        """Return the true or false at `key`."""
        if key not in self._values:
            return default
        value = self._values[key]
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def integer(self, key: str, low: int, high: int, default: _Default) -> int | _Default:
        """Return the whole number from `low` to `high` at `key`."""
        if key not in self._values:
            return default
        value = self._values[key]
        if not _is_integer(value, low, high):
            raise self.wrong(key, value, f"a whole number from {low} to {high}")
        return cast("int", value)

    def number(self, key: str, low: float, high: float, default: float) -> float:
        """Return the finite number from `low` to `high` at `key`, as a float."""
        value = self._values.get(key, default)
        # The comparison is false for a nan, too.
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        raise self.wrong(key, value, f"a number from {low} to {high}")

    def integers(
        self, key: str, low: int, high: int, max_count: int, *, min_count: int = 0
    ) -> tuple[int, ...]:
        """Return the list of whole numbers at `key`, () where it is missing."""
        count = f"{min_count} to {max_count}" if min_count else f"at most {max_count}"
        expected = f"a list of {count} whole numbers from {low} to {high}"
        values = self._list(key, min_count, max_count, expected)
        for value in values:
            if not _is_integer(value, low, high):
                raise self.wrong(key, value, expected)
        return tuple(cast("list[int]", values))

    def texts(
        self, key: str, max_chars: int, max_count: int, pattern: str = ".+", such_as: str = ""
    ) -> tuple[str, ...]:
        """Return the list of different texts at `key`, each all of `pattern`, () where it is missing."""
        expected = f"a list of at most {max_count} different names"
        expected += f" such as {such_as!r}" if such_as else f" of 1 to {max_chars} characters"
        values = self._list(key, 0, max_count, expected)
        for value in values:
            if not _is_text(value, 1, max_chars) or not re.fullmatch(
                pattern, str(value), re.DOTALL
            ):
                raise self.wrong(key, value, expected)
        texts = tuple(cast("list[str]", values))
        if len(set(texts)) != len(texts):
            raise self.wrong(key, values, expected)
        return texts

    def pairs(self, key: str, max_chars: int, max_count: int) -> tuple[tuple[str, str], ...]:
        """Return the table of texts at `key`, () where it is missing; an empty table is wrong."""
        if key not in self._values:
            return ()
        value = self._values[key]
        expected = f"a table of 1 to {max_count} texts of 1 to {max_chars} characters"
        if not isinstance(value, dict):
            raise self.wrong(key, value, expected)
        pairs = cast("dict[str, object]", value)
        if not 1 <= len(pairs) <= max_count:
            raise self.wrong(key, pairs, expected)
        for name, text in pairs.items():
            if not _is_text(name, 1, max_chars) or not _is_text(text, 1, max_chars):
                raise self.wrong(f"{key}.{name[:_SHOWN_CHARS]}", text, expected)
        return tuple(cast("dict[str, str]", pairs).items())

    def table(self, key: str, allowed: Sequence[str]) -> Table:
        """Return the table at `key`, an empty one where it is missing."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, value, "a table")
        return Table(cast("dict[str, object]", value), allowed, self._file, self._key_path(key))

    def free_table(self, key: str) -> Table:
        """Return the table at `key`, whose keys are names of the file's own choice."""
        value = self._values.get(key, {})
        names = list(cast("dict[str, object]", value)) if isinstance(value, dict) else []
        return self.table(key, names)

    def tables(self, key: str, allowed: Sequence[str], max_count: int) -> Iterator[Table]:
        """Yield the tables of the list at `key`, none where it is missing."""
        expected = f"a list of at most {max_count} tables"
        for index, value in enumerate(self._list(key, 0, max_count, expected)):
            if not isinstance(value, dict):
                raise self.wrong(f"{key}[{index}]", value, "a table")
            path = f"{self._key_path(key)}[{index}]"
            yield Table(cast("dict[str, object]", value), allowed, self._file, path)

    def keys(self) -> tuple[str, ...]:
        """Return the keys that the table has, in the file's order."""
        return tuple(self._values)

    def _list(self, key: str, min_count: int, max_count: int, expected: str) -> list[object]:
        if key not in self._values:
            return []
        value = self._values[key]
        if not isinstance(value, list):
            raise self.wrong(key, value, expected)
        values = cast("list[object]", value)
        if not min_count <= len(values) <= max_count:
            raise self.wrong(key, values, expected)
        return values

    def _where(self, key: str) -> str:
        return f"{self._file}: {self._key_path(key)}"

    def _key_path(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def shown(value: object) -> str:
    """Return `value`, as TOML gave it, for a complaint: short, and without walking into it.

    A table nested thousands deep cannot be printed, nor a number of thousands of digits.
    """
    match value:
        case dict():
            text = f"a table of {len(cast('dict[str, object]', value))} keys"
        case list():
            values = cast("list[object]", value)
            is_plain = not any(isinstance(one, dict | list) for one in values)
            is_short = 0 < len(values) <= _SHOWN_VALUES and is_plain
            text = f"[{', '.join(map(shown, values))}]" if is_short else f"a list of {len(values)}"
        case bool():
            text = str(value).lower()
        case int() if abs(value) > _SHOWN_INT:
            text = f"a number of {value.bit_length()} bits"
        case datetime() | date() | time():
            text = f"the time {value.isoformat()}"
        case _:
            text = repr(value)
    return text[:_SHOWN_CHARS]


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_text(value: object, min_chars: int, max_chars: int) -> bool:
    return isinstance(value, str) and min_chars <= len(value) <= max_chars


def _text_expected(min_chars: int, max_chars: int) -> str:
    if not min_chars:
        return f"a text of at most {max_chars} characters"
    return f"a text of {min_chars} to {max_chars} characters"
