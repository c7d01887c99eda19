"""Pins: what is known of the owner of a model version, and how that is written to a file. Pure values.

The file is JSON, so that an operator can read it:

    {"format": 1, "pins": [{"model", "version", "digest", "why", "publisher", "is_trusted", "holders"}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.model_digest import EXPECTED, MAX_DIGEST_CHARS, is_digest, is_other_digest
from capamesh.protocol.schema import Meta, Mismatch, Struct, read, shown

MAX_PINS = 16_384
"""Pins that are kept (guess: sixteen nodes' worth of models); what nobody hosts goes first."""
MAX_KEPT_HOLDERS = 16
"""Holders that are written down for each pin (guess: a restarted router needs to know who they were, not all of them)."""
MAX_FILE_BYTES = 64 * 1024 * 1024
"""`MAX_PINS` pins with as many holders as are kept and usual names have a third of that."""

_TEXT = Meta(
    min_length=1, max_length=256
)  # as a model's name in an advert; longer than any peer id
_VERSION = Meta(pattern=r"\A[0-9]{1,20}\Z")  # as in an advert
_DIGEST = Meta(max_length=MAX_DIGEST_CHARS)


class Why(StrEnum):
    """The reason for which a version is pinned to a digest; the first that applies holds."""

    RULES = "rules"
    """The operator's rules name the digest."""
    SIGNED = "signed"
    """A publisher that this router accepts has signed it."""
    FIRST = "first_seen"
    """The digest was there first, by most of those who brought the version."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The digest that one version of a model is served as."""

    model: Annotated[ModelName, _TEXT]
    version: Annotated[ModelVersion, _VERSION]
    digest: Annotated[str, _DIGEST]
    why: Why
    publisher: Annotated[str, Meta(max_length=256)] = ""
    """The peer id of the publisher that signed it; "" unless `why` is a signature."""
    is_trusted: bool = False
    """True if requests that name no version may go to it as to any other."""
    holders: tuple[tuple[Annotated[PeerId, _TEXT], Annotated[str, _TEXT]], ...] = ()
    """The nodes that host or have hosted it, each with the invite that admitted it, the latest last."""


class _File(Struct, frozen=True):
    """The whole file."""

    format: Literal[1]
    pins: Annotated[tuple[Pin, ...], Meta(max_length=MAX_PINS)]


def pins_to_json(pins: Iterable[Pin]) -> bytes:
    """Return the file that holds `pins`.

    It is made pin by pin: one call that made 20 MB of JSON would let no other thread run meanwhile.
    """
    listed = ",".join(_json(pin) for pin in pins)
    return f'{{"format":1,"pins":[{listed}]}}'.encode()


def _json(pin: Pin) -> str:
    return json.dumps(
        {
            "model": pin.model,
            "version": pin.version,
            "digest": pin.digest,
            "why": pin.why.value,
            "publisher": pin.publisher,
            "is_trusted": pin.is_trusted,
            "holders": [list(holder) for holder in pin.holders[-MAX_KEPT_HOLDERS:]],
        },
        separators=(",", ":"),
    )


def pins_from_json(raw: bytes) -> list[Pin]:
    """Return the pins in a file; raise `ConfigError` when it is none, or holds one that is not well formed.

    Pins whose digest is of another version of Capamesh are left out: nobody can host such files any more.
    """
    try:
        pins = [pin for pin in read(json.loads(raw), _File).pins if not is_other_digest(pin.digest)]
    except Mismatch as exc:
        raise ConfigError(str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"it is no JSON: {exc}") from exc
    for pin in pins:
        if not is_digest(pin.digest):
            raise ConfigError(f"the digest of a pin is {shown(pin.digest)}, expected {EXPECTED}")
    return pins
