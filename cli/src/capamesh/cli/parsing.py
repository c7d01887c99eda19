"""Reads the values of options: places, durations, lists of numbers. Pure; a wrong one is a usage error."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import typer

from capamesh.cli.units import size_bytes

_PLACE = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
_DURATION = re.compile(r"(?P<count>[0-9]{1,9})(?P<unit>[smhdw])")
_RANGE = re.compile(r"(?P<first>[0-9]{1,9})(?:-(?P<last>[0-9]{1,9}))?")
_SECONDS = re.compile(r"(?P<count>[0-9]{1,9}(?:\.[0-9]{1,9})?)(?P<unit>ms|s|m|h)?")
_SECONDS_OF = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MOST_SECONDS = 1e13
"""More than any text of a time says."""
_COUNT = re.compile(r"[0-9]{1,9}")
_MIB = 2**20
_MOST_MIB = 2**30
"""The most MiB that an option takes which has no bound of its own."""
_MOST_NUMBERS = 1000
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def host_and_port(text: str, option: str) -> tuple[str, int]:
    """Return the two parts of `HOST:PORT` or `[IPV6]:PORT`; port 0 is any free one."""
    found = _PLACE.fullmatch(text.strip())
    host = found and (found["v6"] or found["host"])
    if not found or not host or int(found["port"]) > 65535:
        raise typer.BadParameter(
            f"{text!r} is no HOST:PORT with a port from 0 to 65535, for example 127.0.0.1:8000 or [::]:8000",
            param_hint=option,
        )
    return host, int(found["port"])


def duration(text: str, option: str) -> timedelta:
    """Return what `30d`, `12h`, `90m`, `45s` or `2w` says."""
    found = _DURATION.fullmatch(text.strip())
    try:
        lasts = timedelta(**{_UNITS[found["unit"]]: int(found["count"])}) if found else timedelta()
    except OverflowError:
        lasts = timedelta()
    if not lasts:
        raise typer.BadParameter(
            f"{text!r} is no duration: give a whole number and s, m, h, d or w, for example 30d",
            param_hint=option,
        )
    return lasts


def seconds(least: float = 0.0, most: float = _MOST_SECONDS) -> Callable[[str | float], float]:
    """Return a reader of an option's seconds: a plain number, or one with its unit such as `500ms`, `30s`, `5m` or `2h`."""

    def read(text: str | float) -> float:
        found = _SECONDS.fullmatch(str(text).strip())
        if found is None:
            raise typer.BadParameter(
                f"{str(text)[:80]!r} is no time: give seconds, or a number and ms, s, m or h, for example 30s"
            )
        lasts_s = float(found["count"]) * _SECONDS_OF[found["unit"] or "s"]
        if not least <= lasts_s <= most:
            upper = "" if most == _MOST_SECONDS else f" and {most:g} at most"
            raise typer.BadParameter(
                f"{str(text)[:80]!r} is out of range: give {least:g} s at least{upper}"
            )
        return lasts_s

    return read


def mebibytes(least: int, most: int = _MOST_MIB) -> Callable[[str | int], int]:
    """Return a reader of an option's size in whole MiB: a plain number of them, or one with its unit such as `64MiB` or `1GiB`."""

    def read(text: str | int) -> int:
        plain = str(text).strip()
        size = int(plain) if _COUNT.fullmatch(plain) else size_bytes(plain) / _MIB
        if not least <= size <= most or size != int(size):
            upper = "" if most == _MOST_MIB else f" to {most}"
            raise typer.BadParameter(
                f"{plain[:80]!r} is no size here: give whole MiB from {least}{upper}, for example 64 or 64MiB"
            )
        return int(size)

    return read


def names(text: str) -> list[str]:
    """Return what `eu,us` says: names with commas between, none of an empty text."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str, option: str) -> list[int]:
    """Return what `1,2,5` or `1-3` says: whole numbers from 0, at most 1,000 of them."""
    found: list[int] = []
    for part in text.split(","):
        bounds = _RANGE.fullmatch(part.strip())
        first = int(bounds["first"]) if bounds else -1
        last = int(bounds["last"]) if bounds and bounds["last"] else first
        if not 0 <= first <= last or len(found) + last - first >= _MOST_NUMBERS:
            raise typer.BadParameter(
                f"{text[:80]!r} is no list of up to {_MOST_NUMBERS} numbers, for example 1,2,5 or 1-3",
                param_hint=option,
            )
        found += range(first, last + 1)
    return found


def deadline(text: str, option: str) -> timedelta | datetime:
    """Return what `2h` or `2026-12-01T10:00` says: how long from now, or a time, by UTC unless it names a zone."""
    if _DURATION.fullmatch(text.strip()):
        return duration(text, option)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text[:80]!r} is no deadline: give how long from now, for example 2h, or a time by UTC, for example"
            " 2026-12-01T10:00",
            param_hint=option,
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def columns(given: Sequence[str], option: str) -> dict[str, list[str]]:
    """Return the columns of each input, of texts such as `X=age,height`."""
    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, words = text.partition("=")
        if not equals or not name.strip() or not names(words):
            raise typer.BadParameter(
                f"{text[:80]!r} is no INPUT=COLUMN, for example X=pixels or X=age,height",
                param_hint=option,
            )
        if name.strip() in found:
            raise typer.BadParameter(
                f"the input {name.strip()[:80]!r} is given twice; put its columns side by side: X=age,height",
                param_hint=option,
            )
        found[name.strip()] = names(words)
    return found
