"""Reads the text of a TOML file that people write, of any content, in bounded time. Pure."""

from __future__ import annotations

import re
import tomllib
from typing import Final, TypeVar

from capamesh.protocol.schema import Mismatch, read

_Value = TypeVar("_Value")

MAX_KEY_PARTS: Final = 16  # guess: five times what any schema has
_LONG_KEY: Final = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MAX_KEY_PARTS}}}"""
)
"""A dotted key of more than so many parts, in which tomllib is quadratic: 64 KiB of them take 11 s (measured)."""


def read_toml(raw: bytes, schema: type[_Value], file: str) -> _Value:
    """Return the TOML document in `raw`, in UTF-8, as a `schema`.

    Raises `Mismatch`, which begins with the name of the `file`: not TOML, a key of too many parts, or the first field
    that does not fit.
    """
    try:
        return read(_parsed(raw), schema)
    except Mismatch as exc:
        raise Mismatch(f"{file}: {exc}") from exc
    except (ValueError, RecursionError) as exc:  # TOML's and UTF-8's errors are ValueErrors
        raise Mismatch(f"{file} is not TOML: {exc or 'nested too deeply'}") from exc


def _parsed(raw: bytes) -> dict[str, object]:
    text = raw.decode()
    if long := _LONG_KEY.search(text):
        line = text.count("\n", 0, long.start()) + 1
        raise Mismatch(f"line {line} has a key of over {MAX_KEY_PARTS} parts; shorten it")
    return tomllib.loads(text)
