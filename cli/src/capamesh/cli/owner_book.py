"""`capamesh network show`: the owner's book beside what is revoked and who is here. File IO, asks a router, prints."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any, Final

from capamesh.cli.access import AccessOptions
from capamesh.cli.compact_table import Column
from capamesh.cli.fleet_rows import node_name, node_names
from capamesh.cli.operator_client import OperatorClient
from capamesh.cli.printing import (
    day_text,
    hint,
    print_compact,
    print_json,
    print_values,
    print_wide,
)
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import NetworkOwner, RevocationList
from capamesh.protocol.network.authority import own_authority
from capamesh.protocol.network.book import BOOK_FILE, Book, Invited, read_book
from capamesh.protocol.network.seen import Seen, note_seen, read_seen

SHOWN_DIGITS = 8
"""The first digits of an invite that a table of members shows (guess: no two of a book share them)."""
INVITE_COLUMNS: Final = (
    Column("INVITE"),
    Column("ROLE"),
    Column("FOR", least=10),
    Column("STATE"),
    Column("EXPIRES"),
    Column("MEMBERS"),
    Column("MADE", is_optional=True),
    Column("ADDRESSES", is_optional=True),
)
MEMBER_COLUMNS: Final = (
    Column("NODE", least=12, is_name=True),
    Column("SEEN"),
    Column("INVITE"),
    Column("FOR", least=10),
    Column("MEMBER UNTIL"),
)


def show_book(
    folder: Path, router: str, *, access: AccessOptions, is_wide: bool, as_json: bool
) -> None:
    """Print what the owner in `folder` gave out and took back, and whom the `router` has, where one is named."""
    owner = NetworkOwner.load(folder)
    revoked = RevocationList.load(folder, owner.ca_der)
    book = read_book(folder)
    now = dt.datetime.now(dt.UTC)
    members, lost = _members(router, access) if router else (None, [])
    seen = read_seen(folder) if members is None else note_seen(folder, [*lost, *members], now)
    away = _away(seen, {str(member["peer_id"]) for member in members or ()})
    here = Counter(str(member["invite"]) for member in members or ())
    network = {
        "network_id": owner.network_id,
        "name": owner.name,
        "key": len(own_authority(owner.ca_der).successors) + 1,
        "oldest_key": revoked.oldest_key + 1,
        "revocations_version": revoked.version,
    }
    invites = [
        {
            **_described(entry, standing_of(entry, revoked, now)),
            # a router has a list of nodes alone
            "members_here": here[entry.invite]
            if members is not None and entry.role == "node"
            else None,
        }
        for entry in book.invites
    ]
    if as_json:
        print_json(
            {
                **network,
                "invites": invites,
                "unreadable_lines": book.unreadable,
                "revoked_peers": sorted(revoked.peers),
                "revoked_invites": sorted(revoked.invites),
                "router": router or None,
                "members": members,
                "members_away": away,
            }
        )
        return
    print_values(network)
    _print_invites(invites, is_wide=is_wide)
    if revoked.peers or revoked.invites:
        print()
        revocations = [("peer", str(peer)) for peer in sorted(revoked.peers)]
        revocations += [("invite", invite) for invite in sorted(revoked.invites)]
        print_wide(("REVOKED", "WHO"), revocations)
    if members == [] and not away:
        print("\nNone of its nodes is known to that router now.")
    labels = {entry.invite: entry.label for entry in book.invites}
    _print_members([*(members or ()), *away], labels, is_wide=is_wide)
    _hint(folder, book, router)


def standing_of(entry: Invited, revoked: RevocationList, now: dt.datetime) -> str:
    """Return whether an invite admits now: `good`, `revoked`, `retired` with its key, or `expired`."""
    if entry.invite in revoked.invites:
        return "revoked"
    if entry.key < revoked.oldest_key:
        return "retired"
    return "expired" if now > entry.expires_at else "good"


def _described(entry: Invited, state: str) -> dict[str, Any]:
    return {
        "invite": entry.invite,
        "role": entry.role,
        "for": entry.label,
        "state": state,
        "made_at": entry.made_at.isoformat(),
        "expires_at": entry.expires_at.isoformat(),
        "members": entry.members,
        "key": entry.key + 1,
        "addresses": list(entry.addresses),
        "replaces": entry.replaces or None,
    }


def _away(seen: dict[PeerId, Seen], here: set[str]) -> list[dict[str, Any]]:
    """Return the members that were seen before and are not here, the one seen last first."""
    return [
        {
            "name": one.name,
            "peer_id": one.peer,
            "invite": one.invite,
            "member_until": None,
            "last_seen": one.last_seen.isoformat(),
        }
        for one in sorted(seen.values(), key=lambda one: one.last_seen, reverse=True)
        if one.peer not in here
    ]


def _members(
    router: str, access: AccessOptions
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the nodes that a router has in its fleet, and those that it has lost."""
    with OperatorClient(router, **access) as client:
        found, lost = client.nodes_and_lost()
    return [
        {
            "name": node.get("name", ""),
            "peer_id": node.get("peer_id", ""),
            "invite": node.get("invite", ""),
            "member_until": node.get("member_until"),
        }
        for node in found
    ], lost


def _print_invites(invites: list[dict[str, Any]], *, is_wide: bool) -> None:
    if not invites:
        return
    print()
    rows = [
        (
            one["invite"] if is_wide else one["invite"][:SHOWN_DIGITS],
            one["role"],
            one["for"] or "-",
            one["state"],
            day_text(one["expires_at"]),
            _places(one),
            day_text(one["made_at"]),
            (" ".join(one["addresses"])) or "-",
        )
        for one in invites
    ]
    if is_wide:
        print_wide([column.title for column in INVITE_COLUMNS], rows)
    else:
        print_compact(INVITE_COLUMNS, rows)


def _places(one: dict[str, Any]) -> str:
    here = one["members_here"]
    return f"up to {one['members']}" if here is None else f"{here} of {one['members']}"


def _print_members(members: list[dict[str, Any]], labels: dict[str, str], *, is_wide: bool) -> None:
    if not members:
        return
    print()
    names = node_names(members)
    rows = [
        (
            node_name(member, names),
            day_text(member["last_seen"]) if member.get("last_seen") else "here",
            str(member["invite"])[:SHOWN_DIGITS] or "-",
            labels.get(str(member["invite"])) or "-",
            day_text(member["member_until"]),
        )
        for member in members
    ]
    if is_wide:
        wide = [
            (*row, member["peer_id"], member["invite"])
            for row, member in zip(rows, members, strict=True)
        ]
        print_wide(("NODE", "SEEN", "INVITE", "FOR", "MEMBER UNTIL", "PEER", "WHOLE INVITE"), wide)
    else:
        print_compact(MEMBER_COLUMNS, rows)


def _hint(folder: Path, book: Book, router: str) -> None:
    if book.unreadable:
        hint(
            f"{book.unreadable} lines of {folder / BOOK_FILE} cannot be read: cut off, or changed by hand."
        )
    if not book.invites:
        hint(
            f"{folder / BOOK_FILE} has no invite: those that were made before there was a book are not in it. "
            "One is made by: capamesh network token"
        )
    if not router:
        hint("Who of them is here now: capamesh network show --router URL")
