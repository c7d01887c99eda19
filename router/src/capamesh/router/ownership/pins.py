"""Pins: what is known of the owner of a model version, and how that is written to a file. Pure values.

The file is JSON, so that an operator can read it:

    {"format": 1, "pins": [{"model", "version", "digest", "why", "publisher", "is_trusted", "holders"}]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, cast

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.model_digest import is_digest, is_other_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
MAX_PINS = 16_384
"""Pins that are kept (guess: sixteen nodes' worth of models); what nobody hosts goes first."""
MAX_KEPT_HOLDERS = 16
"""Holders that are written down for each pin (guess: a restarted router needs to know who they were, not all of them)."""
MAX_FILE_BYTES = 64 * 1024 * 1024
"""`MAX_PINS` pins with as many holders as are kept and usual names have a third of that."""

_VERSION = re.compile(r"[0-9]{1,20}\Z")  # as in an advert
_MAX_TEXT_CHARS = 256  # of a model's name in an advert, and more than any peer id


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

    model: ModelName
    version: ModelVersion
    digest: str
    why: Why
    publisher: str = ""
    """The peer id of the publisher that signed it; "" unless `why` is a signature."""
    is_trusted: bool = False
    """True if requests that name no version may go to it as to any other."""
    holders: tuple[tuple[PeerId, str], ...] = ()
    """The nodes that host or have hosted it, each with the invite that admitted it, the latest last."""


def pins_to_json(pins: Iterable[Pin]) -> bytes:
    """Return the file that holds `pins`.

    It is made pin by pin: one call that made 20 MB of JSON would let no other thread run meanwhile.
    """
    listed = ",".join(_json(pin) for pin in pins)
    return f'{{"format":{FORMAT},"pins":[{listed}]}}'.encode()


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
    """Return the pins in a file; raise `ConfigError` when it is none, or holds one that is not well formed."""
    try:
        whole = cast("object", json.loads(raw))
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"it is no JSON: {exc}") from exc
    if not isinstance(whole, dict):
        raise ConfigError(f"it holds a {type(whole).__name__}, expected a table")
    fields = cast("dict[str, object]", whole)
    listed = fields.get("pins")
    if fields.get("format") != FORMAT or not isinstance(listed, list):
        raise ConfigError(f"it is not of format {FORMAT} with a list of pins")
    entries = cast("list[object]", listed)
    if len(entries) > MAX_PINS:
        raise ConfigError(f"it has {len(entries)} pins; at most {MAX_PINS} are kept")
    return [pin for entry in entries if (pin := _pin(entry)) is not None]


def _pin(entry: object) -> Pin | None:
    """Return a pin; None where its digest is of another version of Capamesh, so that nobody can host it any more."""
    try:
        fields = cast("Mapping[str, object]", entry if isinstance(entry, dict) else {})
        holders = cast("list[list[object]]", fields["holders"])
        digest = _text(fields["digest"])
        if is_other_digest(digest):
            return None
        if not is_digest(digest):
            raise ValueError(digest[:80])  # noqa: TRY301 - as of any other field
        return Pin(
            model=ModelName(_text(fields["model"])),
            version=ModelVersion(_like(_VERSION, fields["version"])),
            digest=digest,
            why=Why(_text(fields["why"])),
            publisher=_text(fields["publisher"], may_be_empty=True),
            is_trusted=fields["is_trusted"] is True,
            holders=tuple((PeerId(_text(peer)), _text(invite)) for peer, invite in holders),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise ConfigError(f"it holds a pin that is not well formed: {exc!r}"[:200]) from exc


def _like(pattern: re.Pattern[str], value: object) -> str:
    text = _text(value)
    if not pattern.match(text):
        raise ValueError(text[:80])
    return text


def _text(value: object, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT_CHARS or not (value or may_be_empty):
        raise ValueError(f"a text of 1 to {_MAX_TEXT_CHARS} characters is expected")
    return value
