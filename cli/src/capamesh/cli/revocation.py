"""`capamesh network revoke`: whom the owner means, the next list, and who is told. File IO, prints; hands lists to a router over HTTP."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from capamesh.cli.access import AccessOptions
from capamesh.cli.operator_client import OperatorClient
from capamesh.cli.printing import hint, print_fields, print_json
from capamesh.client import Client, HeldList
from capamesh.protocol.errors import CapameshError, ConfigError
from capamesh.protocol.identity import public_bytes_of
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import NetworkOwner, RevocationList
from capamesh.protocol.network.book import read_book
from capamesh.protocol.network.seen import Seen, note_seen, read_seen
from capamesh.router.fleet.naming import nodes_meant, not_one

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capamesh.router.fleet.naming import Adverts

_SERIAL: Final = re.compile(r"[0-9a-f]{40}")
_BEGINNING: Final = re.compile(r"[0-9a-f]{8,39}")
"""Matches the beginning of an invite, as `capamesh network show` prints it."""


def revoke(
    folder: Path, names: list[str], router: str | None, *, access: AccessOptions, as_json: bool
) -> None:
    """Sign and save the next list where there are `names`; hand the newest one to `router`.

    Raises `ConfigError` for a name that means nobody, or several: nothing is signed then.
    """
    owner = NetworkOwner.load(folder)
    current = RevocationList.load(folder, owner.ca_der)
    peers: list[PeerId] = []
    if names:
        invites, peers = _meant(folder, names, router, access, current)
        current = owner.revoke(current, peers=peers, invites=invites, now=dt.datetime.now(dt.UTC))
        current.save(folder)
    elif not current.version:
        raise typer.BadParameter(
            f"{folder} has no revocation list yet: name a node or an invite",
            param_hint="NODE_OR_INVITE",
        )
    held = None if router is None else hand_over(current, folder, router, access)
    fields = {
        "version": current.version,
        "peers": sorted(current.peers),
        "invites": sorted(current.invites),
        "router": router,
        "router_version": None if held is None else held.version,
        "is_kept_by_router": None if held is None else held.is_kept,
    }
    if as_json:
        print_json(fields)
        return
    print_fields(fields)
    if peers:
        hint(
            "A member that is revoked by its id comes back only as a new one: its data folder is to be removed, and a token"
            " given to it whose invite is good. A token that it has kept admits a new id too: revoke its invite to prevent that."
        )
    if held is None:
        hint(
            "Saved. Members keep their links until a router hears of it: "
            f"capamesh network revoke --dir {folder} --router URL"
        )
    warn_unless_kept(held)


def hand_over(
    revocations: RevocationList, folder: Path, router: str, access: AccessOptions
) -> HeldList:
    """Give a saved list to a router; the error says that it is saved, where the router does not take it."""
    try:
        with Client(router, **access) as client:
            return client.revoke(revocations.encode())
    except CapameshError as exc:
        raise type(exc)(
            f"version {revocations.version} is saved in {folder}, but not handed over: {exc.message}; "
            f"try again: capamesh network revoke --dir {folder} --router {router}"
        ) from exc


def warn_unless_kept(held: HeldList | None) -> None:
    """Say what to do about a list that a router enforces and could not write down."""
    if held is not None and not held.is_kept:
        hint(
            f"The router enforces version {held.version}, but could not write it to its disk: make room there, or hand it "
            "over again after the router's next start."
        )


def _meant(
    folder: Path,
    names: list[str],
    router: str | None,
    access: AccessOptions,
    current: RevocationList,
) -> tuple[set[str], list[PeerId]]:
    """Return the invites and the peers that are meant.

    Whole ones are taken as they are, so that a list can be signed while no router answers. The router is asked for its nodes
    when a name is none of these; members that are off are known by the owner's book.
    """
    invites = {name for name in names if _SERIAL.fullmatch(name)}
    peers = [PeerId(name) for name in names if _is_peer_id(name)]
    others = [name for name in names if name not in invites and name not in peers]
    if others:
        known = [entry.invite for entry in read_book(folder).invites]
        seen = read_seen(folder) if router is None else _seen_at(folder, router, access)
        fleet = {peer: one for peer, one in seen.items() if peer not in current.peers}
        for name in others:
            found = invites_meant(name, known)
            nodes = nodes_meant(name.removeprefix("…"), fleet)
            _require_one(name, found, nodes, fleet, is_asked=router is not None)
            invites.update(found)
            peers += nodes
    return invites, peers


def _seen_at(folder: Path, router: str, access: AccessOptions) -> dict[PeerId, Seen]:
    """Return the members of the owner's book once those that the router knows are added."""
    with OperatorClient(router, **access) as client:
        here, lost = client.nodes_and_lost()
    return note_seen(folder, [*lost, *here], dt.datetime.now(dt.UTC))


def invites_meant(given: str, known: Iterable[str]) -> list[str]:
    """Return the invites in the owner's book that begin with `given`, eight digits at least."""
    if not _BEGINNING.fullmatch(given):
        return []
    return sorted({invite for invite in known if invite.startswith(given)})


def _require_one(
    given: str, invites: list[str], nodes: list[PeerId], fleet: Adverts, *, is_asked: bool
) -> None:
    if len(invites) + len(nodes) == 1:
        return
    if invites:
        meant = ", ".join([*invites, *nodes])
        raise ConfigError(f"{given!r} may mean each of {meant}; give the whole of one")
    if is_asked or nodes:
        raise ConfigError(f"{not_one(given, nodes, fleet)}; and no invite in the book begins so")
    raise ConfigError(
        f"{given[:80]!r} is neither a peer id, nor an invite, nor the name of a member that `capamesh network show` lists; "
        "with --router the name of a node that is here now does as well"
    )


def _is_peer_id(name: str) -> bool:
    try:
        public_bytes_of(name)
    except ConfigError:
        return False
    return True
