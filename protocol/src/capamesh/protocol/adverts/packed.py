"""Packs msgpack, and decodes it strictly: within limits, no duplicate keys, nothing after the end. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs] - it ships no types

if TYPE_CHECKING:
    from collections.abc import Callable

_packb = cast("Callable[..., Any]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType] - likewise
_unpackb = cast("Callable[..., Any]", msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType] - likewise

MAX_ARRAY_ITEMS = 1024
"""Bounds what an array header may reserve before its items arrive; the most models of an advert."""

MAX_MAP_ITEMS = 256
"""Ten times the fields of today's largest map: a guess that leaves room for unknown fields."""


def _unique(pairs: list[tuple[object, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ValueError(f"a map key is {type(key).__name__}; it must be text")  # noqa: TRY004 - one error class for all bad bytes
        if key in fields:
            raise ValueError(f"the map key {key[:40]!r} occurs twice")
        fields[key] = value
    return fields


def pack(value: object) -> bytes:
    """Return `value` in msgpack. Raises `ValueError` for what has no msgpack form."""
    try:
        return cast("bytes", _packb(value))
    except (TypeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"no msgpack form: {exc}") from exc


def unpack_strictly(raw: bytes) -> object:
    """Return the one msgpack value in `raw`: maps as dict with text keys, arrays as list.

    Extension types (timestamps too) are refused. Raises `ValueError` for anything else than one whole
    value within the limits. Lists reserve memory by their header, 8 KiB at most for each of the
    unpacker's 1,024 levels, so that junk costs 8 MiB at worst.
    """
    try:
        value = cast(
            "object",
            _unpackb(
                raw,
                raw=False,
                use_list=True,
                strict_map_key=True,
                object_pairs_hook=_unique,
                max_str_len=len(raw),
                max_bin_len=len(raw),
                max_array_len=MAX_ARRAY_ITEMS,
                max_map_len=MAX_MAP_ITEMS,
                max_ext_len=0,
            ),
        )
    except ValueError as exc:  # some of msgpack's have no text
        raise ValueError(str(exc) or f"msgpack {type(exc).__name__}") from exc
    return value
