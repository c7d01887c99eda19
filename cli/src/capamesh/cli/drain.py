"""The owner's work on a node that is to get no requests for a while. File IO, prints; asks a router over HTTP."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import typer

from capamesh.cli.access import AccessOptions
from capamesh.cli.operator_client import FleetNode, OperatorClient
from capamesh.cli.printing import hint, print_json, say
from capamesh.protocol.errors import CapameshError, ConfigError, ProtocolViolation
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import DRAINS_FILE, MAX_ORDER_BYTES, DrainOrder, NetworkOwner
from capamesh.protocol.network.authority import own_authority
from capamesh.protocol.network.drain_order import MAX_DRAIN
from capamesh.protocol.private_files import read_public, replace_public
from capamesh.router.fleet.naming import nodes_meant, not_one


def drain(
    given: str,
    folder: Path,
    router: str,
    lasts: dt.timedelta,
    *,
    access: AccessOptions,
    as_json: bool,
) -> None:
    """Sign and hand over the order by which the node that is `given` gets no new requests for so long."""
    if lasts > MAX_DRAIN:
        raise typer.BadParameter(
            f"a drain lasts {MAX_DRAIN.days} days at most: stop the node, or revoke it",
            param_hint="--for",
        )
    owner, now = NetworkOwner.load(folder), dt.datetime.now(dt.UTC)
    with OperatorClient(router, **access) as client:
        fleet = client.fleet()
        kept, _ = _newest(owner, folder, client)
        peer = _one(given, fleet, kept)
        until = (now + lasts).replace(microsecond=0)
        order = owner.drain(kept, {**_lasting(kept, now), peer: until}, now=now)
        is_kept = _hand_over(order, folder, client)
    if as_json:
        print_json(
            {
                **_reported(peer, fleet, order),
                "until": until.isoformat(),
                "is_kept_by_router": is_kept,
            }
        )
        return
    options = _options(folder, router)
    say(
        f"{_shown(peer, fleet)} gets no new requests from any router until {until:%Y-%m-%d %H:%M} UTC; those under way "
        "are still answered"
    )
    alone = _hosted_there_alone(peer, fleet, order, now)
    if alone:
        hint(
            f"No other node has these ready, requests for them fail until one has: {', '.join(alone)}"
        )
    _warn_unless_kept(is_kept=is_kept)
    hint(
        f"Next: capamesh nodes --router {router}   it is idle once its IN FLIGHT is 0 at every router\n"
        f"Then: capamesh node enable {peer}{options}   brings it back before that"
    )


def enable(given: str, folder: Path, router: str, *, access: AccessOptions, as_json: bool) -> None:
    """Sign and hand over the order by which the node that is `given` gets requests again; nothing where it is not drained."""
    owner, now = NetworkOwner.load(folder), dt.datetime.now(dt.UTC)
    with OperatorClient(router, **access) as client:
        fleet = client.fleet()
        order, held = _newest(owner, folder, client)
        peer = _one(given, fleet, order)
        peers = _lasting(order, now)
        was_drained = peers.pop(peer, None) is not None
        if was_drained:
            order = owner.drain(order, peers, now=now)
        is_kept = _hand_over(order, folder, client) if order.is_newer_than(held) else True
    if as_json:
        print_json({**_reported(peer, fleet, order), "until": None, "is_kept_by_router": is_kept})
        return
    if was_drained:
        say(f"{_shown(peer, fleet)} gets requests again from every router that hears of it")
    else:
        say(f"{_shown(peer, fleet)} is not drained; nothing was changed")
    _warn_unless_kept(is_kept=is_kept)
    hint(f"Next: capamesh nodes --router {router}   shows whether it is usable")


def _newest(
    owner: NetworkOwner, folder: Path, client: OperatorClient
) -> tuple[DrainOrder, DrainOrder]:
    """Return the newest order of the folder's and the router's, and the router's: the key may be in use elsewhere too.

    Of two that were signed beside each other it is the router's, which others go by.
    """
    authority = own_authority(owner.ca_der)
    empty = DrainOrder.empty(owner.network_id)
    file = folder / DRAINS_FILE
    kept = held = empty
    if file.exists():
        raw = read_public(file, "the drain order", limit_bytes=MAX_ORDER_BYTES)
        try:
            kept = DrainOrder.decode(raw, authority)
        except ProtocolViolation as exc:
            raise ConfigError(
                f"{file}: {exc.message}; remove it: the router has the newest order"
            ) from exc
    raw = client.drain_order()
    if raw:
        try:
            held = DrainOrder.decode(raw, authority)
        except ProtocolViolation as exc:
            raise ConfigError(
                f"the router's drain order is not of the owner in {folder}, which owns {owner.network_id}: {exc.message}; "
                "give that network's --dir"
            ) from exc
    return (kept if kept.rank > held.rank else held), held


def _lasting(order: DrainOrder, now: dt.datetime) -> dict[PeerId, dt.datetime]:
    return {peer: until for peer, until in order.peers.items() if until > now}


def _one(given: str, fleet: Mapping[PeerId, FleetNode], order: DrainOrder) -> PeerId:
    """Return the one node that is meant: of the fleet, or one that is drained and not there now."""
    given = given.removeprefix("…")  # as narrow tables show it
    meant = nodes_meant(given, fleet, order.peers)
    if len(meant) != 1:
        raise ConfigError(not_one(given, meant, fleet))
    return meant[0]


def _hand_over(order: DrainOrder, folder: Path, client: OperatorClient) -> bool:
    """Keep the order in the owner's folder and give it to the router; return whether that has it on its disk."""
    encoded = order.encode()
    replace_public(folder / DRAINS_FILE, encoded)
    try:
        held = client.drain(encoded)
    except CapameshError as exc:
        raise type(exc)(
            f"the drain order, version {order.version}, is saved in {folder}, but not handed over: {exc.message}; give the "
            "same command again"
        ) from exc
    if client.drain_order() != encoded:
        raise ConfigError(
            f"the router has another drain order, version {held.version}, which came while this one was signed: give the "
            "same command again"
        )
    return held.is_kept


def _hosted_there_alone(
    peer: PeerId, fleet: Mapping[PeerId, FleetNode], order: DrainOrder, now: dt.datetime
) -> list[str]:
    """Return the models that are ready at this node, and at none that is not drained."""
    there: set[str] = set()
    elsewhere: set[str] = set()
    for other, node in fleet.items():
        ready = {
            f"{model.get('name')}/{model.get('version')}".removesuffix("/")
            for model in node.row.get("models", [])
            if model.get("state") == "ready"
        }
        if other == peer:
            there = ready
        elif order.until(other, now) is None and not node.row.get("is_draining"):
            elsewhere |= ready
    return sorted(there - elsewhere)


def _reported(
    peer: PeerId, fleet: Mapping[PeerId, FleetNode], order: DrainOrder
) -> dict[str, object]:
    return {
        "peer_id": peer,
        "name": fleet[peer].name if peer in fleet else "",
        "version": order.version,
        "drained": {other: until.isoformat() for other, until in order.peers.items()},
    }


def _shown(peer: PeerId, fleet: Mapping[PeerId, FleetNode]) -> str:
    name = fleet[peer].name if peer in fleet else ""
    return f"{name} ({peer})" if name else peer


def _options(folder: Path, router: str) -> str:
    of = "" if folder == Path("network") else f" --dir {folder}"
    return f"{of} --router {router}"


def _warn_unless_kept(*, is_kept: bool) -> None:
    if not is_kept:
        hint(
            "The router goes by it, but could not write it to its disk: make room there, or a restart of all members at "
            "once loses it."
        )
