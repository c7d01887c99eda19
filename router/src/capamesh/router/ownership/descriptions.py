"""Describes, for people and JSON, who owns a model version and why some nodes that claim it are not asked. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.protocol.model_digest import short_digest
from capamesh.router.ownership.pins import Why

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.ownership.version import OwnedVersion

SHOWN_PEERS = 8


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
    others = ", ".join(sorted({short_digest(claim.digest) for claim in owned.claims.values()})[:4])
    if owned.digest or owned.is_signed_only:
        return (
            f"model {model!r} version {version} is {_why_text(owned)}; the nodes that are there host other files under"
            f" that name ({others}…) and are not asked"
        )
    return (
        f"nodes host different files as model {model!r} version {version} ({others}…), and no more invites host one than"
        f" another, so that none is served; say which: capamesh model trust {model} DIGEST --rules FILE"
    )


def choice(owned: OwnedVersion) -> str:
    """Return why a version of which nodes host several files is served as it is, for people; "" where they host one."""
    if not owned.is_contested():
        return ""
    if not owned.digest:
        return (
            _why_text(owned)
            if owned.is_signed_only
            else "none is served: no more invites host one than another"
        )
    if owned.why is not Why.FIRST:
        return f"served {_how(owned)}; nodes host others"
    others = {claim.digest for claim in owned.claims.values()} - {owned.digest}
    if all(owned.invites(other) < owned.invites(owned.digest) for other in others):
        return "served since most invites host it; nodes host others"
    return "served as it was before others came; as many invites host another"


def _why_text(owned: OwnedVersion) -> str:
    if not owned.digest:
        return "to be signed by a publisher that the router's rules name, and none has signed it"
    return f"{short_digest(owned.digest)}… {_how(owned)}"


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
    others: dict[str, list[str]] = {}
    for claim in owned.claims.values():
        if claim.digest != owned.digest:
            others.setdefault(claim.digest, []).append(claim.peer)
    standing = "trusted" if owned.is_trusted else "by name only" if is_owned else "on trial"
    return {
        "name": owned.model,
        "version": owned.version,
        "digest": owned.digest,
        "reason": owned.why.value,
        "publisher": owned.publisher,
        "standing": standing,
        "choice": choice(owned),
        "nodes": sum(claim.digest == owned.digest for claim in owned.claims.values()),
        "invites": owned.invites(owned.digest),
        "others": [
            {
                "digest": digest,
                "nodes": len(peers),
                "invites": owned.invites(digest),
                "peers": peers[:SHOWN_PEERS],
            }
            for digest, peers in sorted(others.items())[:SHOWN_PEERS]
        ],
    }
