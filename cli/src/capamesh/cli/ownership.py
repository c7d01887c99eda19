"""The work of a network's owner: create, admit, shut out. File IO, prints; hands lists to a router over HTTP."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Final

import typer

from capamesh.cli.access import AccessOptions
from capamesh.cli.parsing import host_and_port
from capamesh.cli.printing import hint, print_fields, print_json
from capamesh.cli.revocation import hand_over, warn_unless_kept
from capamesh.protocol.advertised_address import WILDCARDS, dialled_multiaddr
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import Identity, public_bytes_of
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import (
    IDENTITY_FILE,
    JoinToken,
    NetworkOwner,
    RevocationList,
    Role,
)
from capamesh.protocol.network.authority import own_authority, read_authority
from capamesh.protocol.network.book import MAX_LABEL_CHARS, entry_of, read_book, write_down
from capamesh.protocol.network.chain import Invite, read_invite
from capamesh.protocol.plain_text import is_plain
from capamesh.protocol.private_files import read_public, replace_private

DEFAULT_LIFE: Final = dt.timedelta(days=30)
"""The life of tokens and of the memberships they give (guess: a month in which to notice that one ends)."""
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
        f"Next: (umask 077; capamesh network token{option} --role router > {folder.parent / 'router.token'})"
    )


def issue_token(
    folder: Path,
    role_text: str,
    lasts: dt.timedelta | None,
    bootstrap: tuple[str, ...],
    *,
    members: int,
    publishers: tuple[str, ...] = (),
    label: str = "",
    as_json: bool,
) -> None:
    """Print a new join token that admits so many members; it lasts `DEFAULT_LIFE` where nothing else is said.

    It is in the owner's book before it is printed, with the `label` that says for whom it is.
    """
    _require_label(label)
    owner, token = _token(
        folder, Role(role_text), lasts or DEFAULT_LIFE, bootstrap, members, publishers
    )
    _write_down(folder, token, label=label)
    role = token.role
    invite = _invite_of(token)
    if as_json:
        print_json(_reported(token))
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


def renew_token(
    folder: Path,
    file: Path,
    role_text: str,
    lasts: dt.timedelta | None,
    bootstrap: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Put a new token in the place of that in `file`, which may have expired; raise `ConfigError` when it is none."""
    before = JoinToken.parse(_read_token(file))
    role = Role(role_text) if role_text else before.role
    if role is not before.role:
        raise ConfigError(f"{file} admits a {before.role}, not a {role}: leave --role out")
    owner, token = _token(
        folder,
        role,
        lasts or before.lasts,
        bootstrap or before.bootstrap,
        _read(before).members,
        _read(before).publishers,
    )
    if owner.network_id != before.network_id:
        raise ConfigError(
            f"{file} admits to the network {before.network_id}, {folder} owns {owner.network_id}: give its --dir"
        )
    _write_down(folder, token, replaces=_invite_of(before))
    replace_private(file, f"{token.encode()}\n".encode())
    if as_json:
        reported = _reported(token)
        del reported["token"]
        print_json({**reported, "file": str(file), "replaced_invite": _invite_of(before)})
        return
    hint(
        f"{file} now admits up to {_read(token).members} {role.value}s until {token.expires_at:%Y-%m-%d %H:%M} UTC, by the invite "
        f"{_invite_of(token)}.\nMembers that run with --token-file {file} take it over within seconds. The invite before, "
        f"{_invite_of(before)}, ends at {before.expires_at:%Y-%m-%d %H:%M} UTC."
    )


def _require_label(label: str) -> None:
    if len(label) > MAX_LABEL_CHARS or not is_plain(label):
        raise typer.BadParameter(
            f"takes at most {MAX_LABEL_CHARS} characters that can be printed", param_hint="--for"
        )


def _write_down(folder: Path, token: JoinToken, *, label: str = "", replaces: str = "") -> None:
    """Put an invite into the owner's book; one that takes the place of another is for whom that was."""
    if replaces:
        label = next(
            (one.label for one in read_book(folder).invites if one.invite == replaces), label
        )
    write_down(folder, entry_of(token, dt.datetime.now(dt.UTC), label=label, replaces=replaces))


def _read_token(file: Path) -> str:
    """Return the token's text in `file`, whoever may read it; raise `ConfigError` when it cannot be read."""
    return read_public(file, "the join token").decode("ascii", "replace")


def _reported(token: JoinToken) -> dict[str, object]:
    return {
        "token": token.encode(),
        "role": token.role.value,
        "invite": _invite_of(token),
        "members": _read(token).members,
        "publishers": list(_read(token).publishers),
        "expires_at": token.expires_at.isoformat(),
        "bootstrap": list(token.bootstrap),
    }


def _invite_of(token: JoinToken) -> str:
    return _read(token).serial


def _read(token: JoinToken) -> Invite:
    return read_invite(read_authority(token.ca_der), token.invite_der)


def _token(
    folder: Path,
    role: Role,
    lasts: dt.timedelta,
    bootstrap: tuple[str, ...],
    members: int,
    publishers: tuple[str, ...],
) -> tuple[NetworkOwner, JoinToken]:
    for publisher in publishers:
        _require_publisher(publisher)
    for address in bootstrap:
        if not _MESH_ADDRESS.fullmatch(address):
            raise ConfigError(
                f"--bootstrap {address!r} is no mesh address such as /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW...; "
                "`capamesh router status` shows a router's"
            )
    owner, now = NetworkOwner.load(folder), dt.datetime.now(dt.UTC)
    try:
        expires_at = now + lasts
    except OverflowError as exc:
        raise typer.BadParameter(
            "ends after the year 9999; give fewer days", param_hint="--expires"
        ) from exc
    return owner, owner.invite(
        role,
        expires_at=expires_at,
        bootstrap=bootstrap,
        now=now,
        members=members,
        publishers=[PeerId(publisher) for publisher in publishers],
    )


def rotate_key(
    folder: Path, router: str | None, *, access: AccessOptions, is_retiring: bool, as_json: bool
) -> None:
    """Make the owner's next key, or retire those before the newest; tell `router` of it."""
    owner, now = NetworkOwner.load(folder), dt.datetime.now(dt.UTC)
    current = RevocationList.load(folder, owner.ca_der)
    number = len(own_authority(owner.ca_der).successors)
    kept: Path | None = None
    if is_retiring:
        if not number:
            raise ConfigError(
                f"the network in {folder} has its first key: make the next one before this is retired: "
                f"capamesh network rotate-key --dir {folder}"
            )
    else:
        owner, number = owner.rotated(now), number + 1
        kept = owner.save_rotated(folder)
    reported = owner.revoke(current, is_retiring=is_retiring, now=now)
    reported.save(folder)
    held = None if router is None else hand_over(reported, folder, router, access)
    fields = {
        "network_id": owner.network_id,
        "key": number + 1,
        "oldest_key": reported.oldest_key + 1,
        "old_key_file": None if kept is None else str(kept),
        "version": reported.version,
        "router": router,
        "router_version": None if held is None else held.version,
        "is_kept_by_router": None if held is None else held.is_kept,
    }
    if as_json:
        print_json(fields)
        return
    print_fields(fields)
    option = "" if folder == Path("network") else f" --dir {folder}"
    warn_unless_kept(held)
    if held is None:
        hint(
            f"Saved. Tell a router, which spreads it: capamesh network revoke{option} --router URL"
        )
    if kept is not None:
        hint(
            f"Keep a copy of {folder}/owner.key in a safe place. {kept} is not needed any more: destroy it and its copies.\n"
            f"Next: renew every member's token (capamesh network token{option} --renew FILE), then shut out who has none: "
            f"capamesh network rotate-key{option} --retire"
        )


def _require_publisher(name: str) -> None:
    try:
        public_bytes_of(name)
    except ConfigError as exc:
        raise ConfigError(
            f"--publisher {name[:80]!r} is no publisher as `capamesh model sign` tells it: {exc.message}"
        ) from exc


def address_of_router(place: str, key: str) -> str:
    """Return the mesh address of a router that will be at `place`, HOST:PORT, with the `key` of a folder or a peer id.

    A folder that holds no key yet gets one, which the router that is started with it as --data then has.
    """
    if not place or not key:
        raise typer.BadParameter(
            "an address names the router that is to be there: give both --router-address and --router-key",
            param_hint="--router-address",
        )
    host, port = host_and_port(place, "--router-address")
    if not port or host in WILDCARDS:
        raise typer.BadParameter(
            f"{place!r} is no place that others reach: give its host and its port",
            param_hint="--router-address",
        )
    return dialled_multiaddr(host, port, _peer_of(key))


def _peer_of(key: str) -> PeerId:
    """Return the peer id that `key` is, or that the key in the folder `key` has, made where there is none."""
    try:
        public_bytes_of(key)
    except ConfigError:
        return Identity.load_or_create(Path(key) / IDENTITY_FILE).peer_id
    return PeerId(key)
