"""Decides which versions of a model are trusted: a request that names none may get them. Pure.

    the first that applies                                           the version is
    ---------------------------------------------------------------  ------------------------------------
    the operator's rules name its digest, or give it a weight        trusted
    an accepted publisher has signed it                              trusted
    another version of the model is named by rules, or signed        on trial, and gets no share
    it was among the first of the model, within `SETTLE_S`: most     trusted
    invites have it, or none has more invites, then nodes
    it was trusted before                                            trusted
    more than half of the incumbents' invites have it too            trusted
    more than half of all invites with the model, two at least,      trusted
    have it
    otherwise                                                        on trial, with a small share

An incumbent is a node that hosts, or hosted, a trusted version of the model.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capamesh.router.ownership.pins import Why
from capamesh.router.ownership.quorum import first_among, votes, winner
from capamesh.router.ownership.version import GRACE_S, KEEP_S, SETTLE_S, OwnedVersion

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelVersion, PeerId
    from capamesh.router.rules.model_rules import ModelRules


class OwnedModel:
    """The versions of one model, and the nodes that host any of them."""

    __slots__ = ("due_s", "peers", "settled_s", "versions")

    def __init__(self, now_s: float) -> None:
        self.versions: dict[ModelVersion, OwnedVersion] = {}
        self.peers: dict[PeerId, str] = {}
        self.settled_s = now_s + SETTLE_S
        self.due_s = -math.inf
        """The next time at which time alone may change something."""

    def is_owned(self) -> bool:
        """Return whether the rules or a publisher say what some version is."""
        return any(owned.digest and owned.why is not Why.FIRST for owned in self.versions.values())

    def seen_s(self) -> float:
        """Return when a holder of a trusted version was there last."""
        return max(
            (owned.seen_s for owned in self.versions.values() if owned.is_trusted),
            default=-math.inf,
        )


@dataclass(frozen=True, slots=True)
class _Electorate:
    """The nodes that decide whether a version is trusted, each with its invite."""

    incumbents: Mapping[PeerId, str]
    everybody: Mapping[PeerId, str]
    """The incumbents, and the nodes of the invites that have none."""
    abstaining: set[str]


def trusted_versions(
    known: OwnedModel, rules: ModelRules, now_s: float
) -> Collection[ModelVersion]:
    """Return the versions that are trusted now."""
    versions = known.versions
    weighted = rules.weighted()
    if known.is_owned():
        return {
            version
            for version, owned in versions.items()
            if owned.why is not Why.FIRST or version in weighted
        }
    kept = {version for version, owned in versions.items() if owned.is_trusted}
    if now_s < known.settled_s or not kept:
        return _first(known) | (weighted & versions.keys())
    kept |= weighted & versions.keys()
    others = [version for version in versions if version not in kept]
    others = [version for version in others if versions[version].claims]
    if others:
        voters = _electorate(known, kept, now_s)
        kept |= {version for version in others if _is_backed(known, version, voters)}
    return kept


def _first(known: OwnedModel) -> set[ModelVersion]:
    """Return the versions that most invites of a new model have, or the one of which the most is there."""
    choices = [
        (known.peers[peer], version)
        for version, owned in known.versions.items()
        for peer, claim in owned.claims.items()
        if claim.digest == owned.digest or not owned.digest  # none is served while it is contested
    ]
    best = first_among(choices)
    if best is None:
        return {version for version, owned in known.versions.items() if owned.is_trusted}
    return {best} | {
        version
        for version in known.versions
        if winner(_votes_for(known, version, known.peers)) is True
    }


def _electorate(known: OwnedModel, trusted: Collection[ModelVersion], now_s: float) -> _Electorate:
    """Return who decides about versions that are not trusted."""
    incumbents: dict[PeerId, str] = {}
    abstaining: set[str] = set()
    invites: set[str] = set()
    for version in trusted:
        owned = known.versions[version]
        incumbents |= {
            claim.peer: claim.invite
            for claim in owned.claims.values()
            if claim.digest == owned.digest
        }
        incumbents |= {
            peer: invite for peer, invite in owned.holders.items() if peer in known.peers
        }
        invites.update(owned.holders.values())
        abstaining.update(owned.abstaining((), now_s))
    present = set(incumbents.values())
    others = {peer: invite for peer, invite in known.peers.items() if invite not in present}
    if incumbents:
        return _Electorate(incumbents, incumbents | others, abstaining - present)
    away_s = now_s - known.seen_s()
    heirs = {peer: invite for peer, invite in known.peers.items() if invite in invites}
    if heirs and away_s >= GRACE_S:
        return _Electorate(heirs, {}, set())
    if away_s >= KEEP_S:
        return _Electorate(known.peers, {}, set())
    return _Electorate({}, {}, set())


def _is_backed(known: OwnedModel, version: ModelVersion, electorate: _Electorate) -> bool:
    incumbents = _votes_for(known, version, electorate.incumbents)
    if incumbents:
        incumbents |= dict.fromkeys(electorate.abstaining)
    if winner(incumbents) is True:
        return True
    everybody = _votes_for(known, version, electorate.everybody)
    everybody |= dict.fromkeys(electorate.abstaining)
    in_favour = sum(vote is True for vote in everybody.values())
    return in_favour > 1 and winner(everybody) is True


def _votes_for(
    known: OwnedModel, version: ModelVersion, peers: Mapping[PeerId, str]
) -> dict[str, bool | None]:
    """Return each invite's vote on whether the version is hosted as it is served."""
    owned = known.versions[version]
    return votes(
        (invite, peer in owned.claims and owned.claims[peer].digest == owned.digest)
        for peer, invite in peers.items()
    )
