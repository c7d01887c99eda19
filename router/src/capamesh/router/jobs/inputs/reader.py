"""The interface of an input's form: which columns it has, where ranges of rows begin, and the rows of a range. Pure."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy.typing as npt

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.schema import shown
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.limits import MAX_FILE_COLUMNS, ShardLimits
from capamesh.router.jobs.inputs.row_numbers import NumberNames
from capamesh.router.jobs.values import BadRow, RowRange

WINDOW_ROWS: Final = 8192
"""The most rows of a window whose values are Python's, each of which takes eight times the bytes of its text (guess)."""
WINDOW_BYTES: Final = 4 * 2**20
"""The bytes of lines after which a window ends (guess)."""

Values: TypeAlias = Sequence[Any] | npt.NDArray[Any]
"""A column: a value a row. Of an array the first axis is the rows."""


@dataclass(slots=True)
class RawRows:
    """Rows of a range as they stand in the input, before they are cast to what the model takes."""

    numbers: Sequence[int]
    """The numbers of the rows that could be read: a range where all could."""
    columns: dict[str, Values]
    """The values of those rows by column: of shape [rows, ...] where it is an array, of the file's dtype."""
    bad: list[BadRow] = field(default_factory=list[BadRow])
    """The rows that could not."""
    sha256: str = ""
    """The SHA-256 of the range's bytes, in hexadecimal digits; "" where the form is not read as bytes."""


class Reader(ABC):
    """One input. Its methods block, and one thread at a time calls them.

    All of them raise `InputInvalid` when the input cannot be read, and `InputChanged` when it is not what it was.
    """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return what the input is now: of another one it is another text."""

    @abstractmethod
    def columns(self) -> Sequence[str] | None:
        """Return the names of the columns; None: each row has its own."""

    @abstractmethod
    def ranges(self, limits: ShardLimits) -> Iterator[RowRange]:
        """Yield the ranges of all rows, in order, each as long as `limits` let it be."""

    def expect(self, datatypes: Mapping[str, Datatype]) -> None:
        """Take in which columns are wanted as numbers of which datatype: who reads texts may make these at once, where none is lost."""
        del datatypes  # most forms have numbers

    @abstractmethod
    def windows(self, rows: RowRange, columns: Sequence[str]) -> Iterator[RawRows]:
        """Yield these columns of the rows of a range that `ranges` has yielded, in order, a window at a time.

        An error takes all windows of the range back: what was changed under the reader is seen at the end.
        """

    def row_names(self, raw: RawRows) -> Sequence[str]:
        """Return the names of rows where no column names them: their numbers, unless a form has others."""
        return NumberNames(raw.numbers)

    def check_columns(self, wanted: Sequence[str]) -> None:
        """Raise `InputInvalid` unless the input has these columns."""
        known = self.columns()
        if known is None:
            return
        for name in wanted:
            if name not in known:
                some = ", ".join(map(shown, known[:20]))
                more = f" and {len(known) - 20} more" if len(known) > 20 else ""
                raise InputInvalid(
                    f"there is no column {name!r}; the columns are {some}{more}. Say which make up that input, in its order:"
                    f' --column {name}=A,B of `capamesh jobs submit`, or "columns": {{{json.dumps(name)}: ["A", "B"]}}'
                )


def check_names(names: Sequence[str], name: str) -> None:
    """Raise `InputInvalid` where the columns of a file, whose name is for messages, are too many, or two have one name."""
    if len(names) > MAX_FILE_COLUMNS:
        raise InputInvalid(
            f"{name} has {len(names)} columns, the limit is {MAX_FILE_COLUMNS}; leave out those that the job does not read, or"
            " put numbers side by side into one column of lists"
        )
    seen: set[str] = set()
    for each in names:
        if each in seen:
            raise InputInvalid(f"{name} has the column {shown(each)} twice; rename one")
        seen.add(each)
