"""Reads typed fields from a decoded map; what does not fit is refused with its path and limit. Pure."""

from __future__ import annotations

import math
import reprlib
from typing import TYPE_CHECKING, NoReturn, cast

from capamesh.protocol.adverts.reasons import RejectReason
from capamesh.protocol.errors import AdvertRejected
from capamesh.protocol.plain_text import is_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 60  # characters of a refused value in a log line: a guess


class Fields:
    """A decoded map, read field by field; fields that nobody reads are tolerated.

    Every reader raises `AdvertRejected` with this map's reason when the field is missing, of another
    type (a bool is no integer) or outside the limits. Lengths of text count Unicode code points.
    """

    __slots__ = ("_path", "_reason", "_values")

    def __init__(
        self,
        values: Mapping[str, object],
        path: str = "",
        *,
        reason: RejectReason = RejectReason.FIELD,
    ) -> None:
        self._values = values
        self._path = path
        self._reason = reason

    def _where(self, key: str) -> str:
        if not self._path or key.startswith("["):
            return self._path + key
        return f"{self._path}.{key}"

    def refuse(self, key: str, value: object, limit: str) -> NoReturn:
        """Raise for the field `key`: its `value` breaks `limit`."""
        where = self._where(key)
        raise AdvertRejected(self._reason, f"{where} is {_shown.repr(value)}; it must be {limit}")

    def _get(self, key: str, kind: type, limit: str) -> object:
        if key not in self._values:
            where = self._where(key)
            raise AdvertRejected(self._reason, f"{where} is missing; it must be {limit}")
        value = self._values[key]
        if type(value) is not kind:
            self.refuse(key, value, limit)
        return value

    def flag(self, key: str) -> bool:
        """Return a boolean."""
        return cast("bool", self._get(key, bool, "true or false"))

    def integer(self, key: str, low: int, high: int) -> int:
        """Return an integer in `low..high`."""
        limit = f"an integer in {low}..{high}"
        value = cast("int", self._get(key, int, limit))
        if not low <= value <= high:
            self.refuse(key, value, limit)
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """Return a finite number in `low..high` as a float; JavaScript writes whole floats as integers."""
        limit = f"a finite number in {low:g}..{high:g}"
        kind = int if type(self._values.get(key)) is int else float
        value = cast("float", self._get(key, kind, limit))
        if not (math.isfinite(value) and low <= value <= high):
            self.refuse(key, value, limit)
        return float(value)

    def text(self, key: str, max_chars: int, *, min_chars: int = 0) -> str:
        """Return text of `min_chars..max_chars` characters, all of them plain (see `plain_text`)."""
        limit = f"text of {min_chars} to {max_chars} characters without control, bidirectional or invisible characters"
        value = cast("str", self._get(key, str, limit))
        if not min_chars <= len(value) <= max_chars or not is_plain(value):
            self.refuse(key, value, limit)
        return value

    def blob(self, key: str, max_bytes: int) -> bytes:
        """Return 1 to `max_bytes` bytes."""
        limit = f"1 to {max_bytes} bytes"
        value = cast("bytes", self._get(key, bytes, limit))
        if not 1 <= len(value) <= max_bytes:
            self.refuse(key, value, limit)
        return value

    def raw_map(self, key: str) -> dict[str, object]:
        """Return a map as it was decoded."""
        return cast("dict[str, object]", self._get(key, dict, "a map"))

    def items(self, key: str, max_items: int, *, min_items: int = 0) -> Fields:
        """Return an array's items as fields of their own, named "[0]", "[1]" and so on."""
        limit = f"an array of {min_items} to {max_items} items"
        values = cast("list[object]", self._get(key, list, limit))
        if not min_items <= len(values) <= max_items:
            self.refuse(key, len(values), limit)
        named = {f"[{index}]": value for index, value in enumerate(values)}
        return Fields(named, self._where(key), reason=self._reason)

    def maps(self, key: str, max_items: int) -> Iterator[Fields]:
        """Yield the maps of an array, each as fields to read."""
        items = self.items(key, max_items)
        for index in items:
            yield Fields(items.raw_map(index), items._where(index), reason=self._reason)  # noqa: SLF001 - of its own class

    def texts(self, key: str, max_items: int, max_chars: int) -> tuple[str, ...]:
        """Return an array of texts of 1 to `max_chars` characters."""
        items = self.items(key, max_items)
        return tuple(items.text(index, max_chars, min_chars=1) for index in items)

    def integers(
        self, key: str, max_items: int, low: int, high: int, *, min_items: int = 0
    ) -> tuple[int, ...]:
        """Return an array of integers in `low..high`."""
        items = self.items(key, max_items, min_items=min_items)
        return tuple(items.integer(index, low, high) for index in items)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __repr__(self) -> str:
        return f"Fields({self._path or 'top'}: {len(self._values)} fields)"
