"""The members that an owner has seen: who came with which invite, under which name, and when last. Does file IO.

`members.json` in the owner's folder is readable for its owner alone, and is written anew when the owner's commands hear of
members from a router. By it a member that is off can be revoked by its name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, cast

from capamesh.protocol.adverts.wire_fields import MAX_NAME_CHARS
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import PeerId
from capamesh.protocol.private_files import read_public, replace_private
from capamesh.protocol.schema import PLAIN, Meta, Mismatch, Struct, read

SEEN_FILE: Final = "members.json"
MOST: Final = 4096
"""The most members that are kept (guess: more than one owner knows by name)."""
MOST_OF_INVITE: Final = 1024
"""The most members of one invite; the one that was seen for the shortest time gives way."""
MAX_BYTES: Final = 4 * 2**20


class Seen(Struct, frozen=True):
    """One member as it was seen last."""

    peer: Annotated[str, Meta(max_length=128), PLAIN]
    name: Annotated[str, Meta(max_length=MAX_NAME_CHARS), PLAIN]
    invite: Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{40})?\Z")]
    first_seen: datetime
    last_seen: datetime


def read_seen(folder: Path) -> dict[PeerId, Seen]:
    """Return the members in the owner's `folder` by their peer ids; none where no member was seen yet, or the file is no list of them."""
    path = folder / SEEN_FILE
    try:
        rows = cast(
            "object", json.loads(read_public(path, "the list of members", limit_bytes=MAX_BYTES))
        )
        found = [_seen(row) for row in cast("list[object]", rows)] if isinstance(rows, list) else []
    except (ConfigError, ValueError, RecursionError):
        return {}
    return {PeerId(one.peer): one for one in found if one is not None}


def note_seen(folder: Path, rows: Iterable[Mapping[str, Any]], now: datetime) -> dict[PeerId, Seen]:
    """Add the nodes of a router's `/v1/nodes`, those that it has lost too, and return all.

    Raises `ConfigError` when the disk refuses them.
    """
    known = read_seen(folder)
    for row in rows:
        peer = PeerId(str(row.get("peer_id")))
        before = known.get(peer)
        seen = _seen(
            {
                "peer": peer,
                "name": str(row.get("name") or ""),
                "invite": str(row.get("invite") or ""),
                "first_seen": (now if before is None else before.first_seen).isoformat(),
                "last_seen": str(row.get("lost_at") or now.isoformat()),
            }
        )
        if seen is not None:
            known[peer] = seen
            _make_room(known, seen.invite)
    text = json.dumps([_row(one) for one in known.values()], indent=1)
    replace_private(folder / SEEN_FILE, text.encode())
    return known


def _make_room(known: dict[PeerId, Seen], invite: str) -> None:
    counts = Counter(one.invite for one in known.values())
    if counts[invite] <= MOST_OF_INVITE:
        if len(known) <= MOST:
            return
        invite = counts.most_common(1)[0][0]
    least = min(
        (one for one in known.values() if one.invite == invite),
        key=lambda one: (one.last_seen - one.first_seen, one.last_seen),
    )
    del known[PeerId(least.peer)]


def _row(seen: Seen) -> dict[str, str]:
    return {
        "peer": seen.peer,
        "name": seen.name,
        "invite": seen.invite,
        "first_seen": seen.first_seen.isoformat(),
        "last_seen": seen.last_seen.isoformat(),
    }


def _seen(values: object) -> Seen | None:
    try:
        table = dict(cast("dict[str, Any]", values))
        for key in ("first_seen", "last_seen"):
            table[key] = datetime.fromisoformat(table[key])
        seen = read(table, Seen)
    except (ValueError, TypeError, KeyError, Mismatch):
        return None
    has_zones = seen.first_seen.tzinfo is not None and seen.last_seen.tzinfo is not None
    return seen if has_zones else None
