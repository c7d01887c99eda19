"""Describes, for people and JSON, who owns a model version and why some nodes that claim it are not asked. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from capamesh.protocol.model_digest import short_digest
from capamesh.router.ownership.pins import Why
from capamesh.router.ownership.quorum import votes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.ownership.version import OwnedVersion

SHOWN_PEERS = SHOWN_DIGESTS = 8


def withheld(
    model: ModelName, version: ModelVersion, versions: Mapping[ModelVersion, OwnedVersion]
) -> str:
    """Return why nodes that say to host a version are not asked, for people; "" when there are none.

    `versions` are those of the model. With the version "", why no version is chosen for a request that names none.
    """
    if not version:
        if any(one.is_trusted and one.is_hosted() for one in versions.values()):
            return ""
        on_trial = [one.version for one in versions.values() if one.claims]
        return (
            f"model {model!r} is hosted at {', '.join(sorted(on_trial, key=int)[:8])}, which this router does not"
            " trust yet; name the version, or name its digest in the router's rules"
        )
    owned = versions.get(version)
    if owned is None or not owned.claims or owned.is_hosted():
        return ""
    others = ", ".join([short_digest(digest) for digest in _others(owned)][:4])
    return f"nodes host files as model {model!r} version {version} ({others}…), but {_none_served(owned)}"


def choice(owned: OwnedVersion) -> str:
    """Return why a version of which nodes host several files is served as it is, for people; "" where they host one."""
    if not owned.is_contested():
        return ""
    if not owned.is_hosted():
        return _none_served(owned)
    if owned.why is not Why.FIRST:
        return f"served {_how(owned)}; nodes host others"
    if all(owned.invites(other) < owned.invites(owned.digest) for other in _others(owned)):
        return "served since most invites host it; nodes host others"
    return f"served as it was before others came; as many invites host another; {_trust(owned)}"


def _none_served(owned: OwnedVersion) -> str:
    """Return why none of the files that nodes host is served."""
    if owned.digest:
        return (
            f"none is served: it is {short_digest(owned.digest)}… {_how(owned)}, which no node hosts now;"
            f" {_trust(owned)}"
        )
    if owned.is_signed_only:
        return "none is served: it is to be signed by a publisher that the router's rules name, and none has signed it"
    return f"none is served: no more invites host one than another; {_trust(owned)}"


def _trust(owned: OwnedVersion) -> str:
    return f"say which is right: capamesh model trust {owned.model} DIGEST --version {owned.version} --rules FILE"


def _others(owned: OwnedVersion) -> list[str]:
    """Return the digests that nodes host and that are not served: first what most invites vote for, then by nodes.

    One invite's nodes can bring dozens, and would hide the right one among them.
    """
    claims = owned.claims.values()
    backed = Counter(votes((claim.invite, claim.digest) for claim in claims).values())
    nodes = Counter(claim.digest for claim in claims if claim.digest != owned.digest)
    return sorted(nodes, key=lambda digest: (-backed[digest], -nodes[digest], digest))


def _how(owned: OwnedVersion) -> str:
    match owned.why:
        case Why.RULES:
            return "by the router's rules"
        case Why.SIGNED:
            return f"as {owned.publisher} has signed it"
        case Why.FIRST:
            return "as it was first seen"


def described(owned: OwnedVersion, *, is_owned: bool) -> dict[str, object]:
    """Return one version as JSON; `is_owned`: rules or a publisher say what some version of its model is."""
    hosts: dict[str, list[str]] = {}
    for claim in owned.claims.values():
        hosts.setdefault(claim.digest, []).append(claim.peer)
    standing = "trusted" if owned.is_trusted else "by name only" if is_owned else "on trial"
    return {
        "name": owned.model,
        "version": owned.version,
        "digest": owned.digest,
        "reason": owned.why.value,
        "publisher": owned.publisher,
        "standing": standing,
        "choice": choice(owned),
        "nodes": len(hosts.get(owned.digest, ())),
        "invites": owned.invites(owned.digest),
        "others": [
            {
                "digest": digest,
                "nodes": len(hosts[digest]),
                "invites": owned.invites(digest),
                "peers": hosts[digest][:SHOWN_PEERS],
            }
            for digest in _others(owned)[:SHOWN_DIGESTS]
        ],
    }
