"""msgpack, decoded within limits. The only importer of msgpack. Pure."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any, NoReturn, cast

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs] - it ships no types

_packb = cast("Callable[..., bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType] - likewise
_unpackb = cast("Callable[..., object]", msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType] - likewise

MAX_MAP_ITEMS = 256
"""Ten times the fields of today's largest map: a guess that leaves room for unknown fields."""

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60  # guess: enough to recognize a value


def pack(value: object) -> bytes:
    """Return `value` in msgpack. Raises `ValueError` for what has no msgpack form."""
    try:
        return _packb(value)
    except (TypeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"no msgpack form: {exc}") from exc


def unpack(raw: bytes, *, max_array_items: int) -> object:
    """Return the one msgpack value in `raw`: maps as dict with text keys, arrays as list.

    Lists reserve memory by their header, 8 bytes an item for each of the unpacker's 1,024 levels:
    `max_array_items` bounds that. Extension types (timestamps too) are refused. Raises `ValueError` for
    anything else than one whole value within the limits.
    """
    return _unpack(raw, max_array_items, None)


def unpack_strictly(raw: bytes, *, max_array_items: int) -> object:
    """Return what `unpack` does, and refuse a map that has a key twice: for what is signed."""
    return _unpack(raw, max_array_items, _unique)


def shown(value: object) -> str:
    """Return an unpacked value for an error message: short, however long or deep it is.

    `repr` alone raises `RecursionError` on arrays nested as deep as the unpacker allows.
    """
    return _SHORT.repr(value)


def _unpack(raw: bytes, max_array_items: int, pairs_hook: Callable[..., Any] | None) -> object:
    try:
        return _unpackb(
            raw,
            raw=False,
            use_list=True,
            strict_map_key=True,
            object_pairs_hook=pairs_hook,
            max_str_len=len(raw),
            max_bin_len=len(raw),
            max_array_len=max_array_items,
            max_map_len=MAX_MAP_ITEMS,
            max_ext_len=0,
            ext_hook=_refuse_extension,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as exc:
        # some of msgpack's own have no text
        raise ValueError(str(exc) or f"msgpack {type(exc).__name__}") from exc


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"an extension of type {code} and {len(data)} bytes; there are none")


def _unique(pairs: list[tuple[object, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ValueError(f"a map key is {type(key).__name__}; it must be text")  # noqa: TRY004 - one error class for all bad bytes
        if key in fields:
            raise ValueError(f"the map key {key[:40]!r} occurs twice")
        fields[key] = value
    return fields
