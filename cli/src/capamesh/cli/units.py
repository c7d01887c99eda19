"""Reads amounts of memory as people write them. Pure; a wrong one is a usage error."""

from __future__ import annotations

import re

import typer

_SIZE = re.compile(r"(?P<count>[0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?P<unit>[kKMGT]i?B|B)?")
_POWERS = {"B": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def size_bytes(text: str, option: str | None = None) -> int:
    """Return what `1073741824`, `512MiB`, `2GiB` or `1.5GB` says, in whole bytes."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no size: give bytes, or a number and KiB, MiB, GiB or TiB, for example 512MiB",
            param_hint=option,
        )
    unit = found["unit"] or "B"
    step = 1024 if "i" in unit else 1000
    return int(float(found["count"]) * step ** _POWERS[unit[0].upper()])
