"""What a network's owner does: create, admit, shut out. File IO, prints; hands lists to a router over HTTP."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Final

import typer

from capamesh.cli.printing import hint, print_fields, print_json
from capamesh.client import Client
from capamesh.protocol.errors import CapameshError, ConfigError
from capamesh.protocol.identity import public_bytes_of
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import NetworkOwner, RevocationList, Role
from capamesh.protocol.network.chain import read_authority, read_invite

_SERIAL: Final = re.compile(r"[0-9a-f]{40}")
_MESH_ADDRESS: Final = re.compile(
    r"/(?:ip[46]|dns[46]?)/[^/\s]+/tcp/[0-9]{1,5}/p2p/[1-9A-HJ-NP-Za-km-z]+"
)


def create(name: str, folder: Path, *, as_json: bool) -> None:
    """Make an owner's folder; raise `ConfigError` when it holds another network's."""
    owner = NetworkOwner.create(name, dt.datetime.now(dt.UTC))
    owner.save(folder)
    fields = {"network_id": owner.network_id, "name": name, "folder": str(folder)}
    if as_json:
        print_json(fields)
        return
    print_fields(fields)
    option = "" if folder == Path("network") else f" --dir {folder}"
    hint(
        f"Whoever holds {folder}/owner.key admits to this network: keep a copy of it in a safe place.\n"
        f"Next: capamesh network token{option} --role router > router.token"
    )


def issue_token(
    folder: Path,
    role_text: str,
    lasts: dt.timedelta,
    bootstrap: tuple[str, ...],
    *,
    members: int,
    publishers: tuple[str, ...] = (),
    as_json: bool,
) -> None:
    """Print a new join token that admits so many members."""
    for address in bootstrap:
        if not _MESH_ADDRESS.fullmatch(address):
            raise ConfigError(
                f"--bootstrap {address!r} is no mesh address such as /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW...; "
                "`capamesh router status` shows a router's"
            )
    owner, role, now = NetworkOwner.load(folder), Role(role_text), dt.datetime.now(dt.UTC)
    try:
        expires_at = now + lasts
    except OverflowError as exc:
        raise typer.BadParameter(
            "ends after the year 9999; give fewer days", param_hint="--expires"
        ) from exc
    for publisher in publishers:
        _require_publisher(publisher)
    token = owner.invite(
        role,
        expires_at=expires_at,
        bootstrap=bootstrap,
        now=now,
        members=members,
        publishers=[PeerId(publisher) for publisher in publishers],
    )
    invite = read_invite(read_authority(owner.ca_der), token.invite_der).serial
    if as_json:
        print_json(
            {
                "token": token.encode(),
                "role": role.value,
                "invite": invite,
                "members": members,
                "publishers": list(publishers),
                "expires_at": token.expires_at.isoformat(),
                "bootstrap": list(bootstrap),
            }
        )
        return
    print(token.encode())
    hint(
        f"A secret: admits up to {members} {role.value}s to {owner.name!r} ({owner.network_id}) until "
        f"{token.expires_at:%Y-%m-%d %H:%M} UTC.\n"
        f"Invite {invite}: revoke it to shut out all that it admitted."
    )
    if role is Role.NODE and not bootstrap:
        hint("It names no --bootstrap address: give the node one, or --mdns on a local network.")
    run = (
        "node run --data my-network/node --models models"
        if role is Role.NODE
        else "router run --data my-network/router"
    )
    hint(f"Next: capamesh {run} --token-file FILE")


def revoke(folder: Path, names: list[str], router: str | None, *, as_json: bool) -> None:
    """Sign and save the next list where there are `names`; hand the newest one to `router`."""
    owner = NetworkOwner.load(folder)
    current = RevocationList.load(folder, owner.ca_der)
    if names:
        invites = {name for name in names if _SERIAL.fullmatch(name)}
        for name in names:
            if name not in invites:
                _require_peer_id(name)
        current = owner.revoke(
            current,
            peers=[PeerId(name) for name in names if name not in invites],
            invites=invites,
            now=dt.datetime.now(dt.UTC),
        )
        current.save(folder)
    elif not current.version:
        raise typer.BadParameter(
            f"{folder} has no revocation list yet: name a peer id or an invite",
            param_hint="PEER_OR_INVITE",
        )
    held = None if router is None else _hand_over(current, folder, router)
    fields = {
        "version": current.version,
        "peers": sorted(current.peers),
        "invites": sorted(current.invites),
        "router": router,
        "router_version": held,
    }
    if as_json:
        print_json(fields)
        return
    print_fields(fields)
    if held is None:
        hint(
            "Saved. Members keep their links until a router hears of it: "
            f"capamesh network revoke --dir {folder} --router URL"
        )


def _require_publisher(name: str) -> None:
    try:
        public_bytes_of(name)
    except ConfigError as exc:
        raise ConfigError(
            f"--publisher {name[:80]!r} is no publisher as `capamesh model sign` tells it: {exc.message}"
        ) from exc


def _require_peer_id(name: str) -> None:
    try:
        public_bytes_of(name)
    except ConfigError as exc:
        raise ConfigError(
            f"{name[:80]!r} is neither a peer id, whole as `capamesh nodes --json` shows it, nor an invite's 40 digits of "
            f"0-9 and a-f, which `capamesh network token` told: {exc.message}"
        ) from exc


def _hand_over(revocations: RevocationList, folder: Path, router: str) -> int:
    try:
        with Client(router) as client:
            return client.revoke(revocations.encode())
    except CapameshError as exc:
        raise type(exc)(
            f"version {revocations.version} is saved in {folder}, but not handed over: {exc.message}; "
            f"try again: capamesh network revoke --dir {folder} --router {router}"
        ) from exc
