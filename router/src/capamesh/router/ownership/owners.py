"""Who owns each model of the fleet: which file a version is, and which versions may be had without being named. Pure.

Which file a version is, `OwnedVersion` decides. Which versions are trusted:

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

An incumbent is a node that replicas, or hosted, a trusted version of the model.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from capamesh.protocol.adverts import ModelState
from capamesh.router.ownership.pins import MAX_PINS, Pin, Why
from capamesh.router.ownership.publishers import Publishers
from capamesh.router.ownership.quorum import first_among, votes, winner
from capamesh.router.ownership.version import GRACE_S, KEEP_S, SETTLE_S, Claim, OwnedVersion

if TYPE_CHECKING:
    from capamesh.protocol.adverts import NodeAdvert
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId

MAX_OF_INVITE = 4096
"""Versions that the members of one invite may have brought first (guess: four nodes full of models)."""
LOOKS = 4000
"""Nodes that are looked at in one turn to decide what is open (guess: some 5 ms); the rest waits for the next tick."""
MAX_NEWS = 32
"""Events kept to be logged; more in one turn are not told (guess)."""
MAX_REPORTED = 1024
"""Digests that were told to be ignored (guess: more are a flood)."""
MAX_SHOWN = 2048
"""Versions on a page (guess: half a megabyte of JSON)."""
SHOWN_PEERS = 8


@dataclass(frozen=True, slots=True)
class OwnerRules:
    """What an operator says of who owns a model."""

    digests: Mapping[ModelVersion, str] = field(default_factory=dict[Any, str])
    """The digest that each version must have."""
    publishers: frozenset[str] | None = None
    """Whose signatures count, and nothing without one does; None: those of the network, if there are signatures."""
    weighted: frozenset[ModelVersion] = frozenset()
    """The versions that requests are split among."""


NO_RULES = OwnerRules()


@dataclass(frozen=True, slots=True)
class News:
    """Something that the operator is to be told."""

    event: str
    model: ModelName
    version: ModelVersion
    fields: Mapping[str, object]


@dataclass(slots=True)
class Judged:
    """Whose replicas have to be looked at again, because another digest is served or trusted."""

    peers: set[PeerId] = field(default_factory=set[Any])
    models: set[ModelName] = field(default_factory=set[Any])


class _OwnedModel:
    """The versions of one model, and the nodes that replica any of them."""

    __slots__ = ("due_s", "peers", "settled_s", "versions")

    def __init__(self, now_s: float) -> None:
        self.versions: dict[ModelVersion, OwnedVersion] = {}
        self.peers: dict[PeerId, str] = {}
        self.settled_s = now_s + SETTLE_S
        self.due_s = -math.inf
        """When time alone may change something."""


class Owners:
    """Decides for one router. Every `now_s` is in seconds of the caller's monotonic clock: pins hold no times."""

    def __init__(
        self,
        *,
        rules_of: Callable[[ModelName], OwnerRules] = lambda _: NO_RULES,
        publishers: Collection[str] = (),
    ) -> None:
        """`publishers` are those of the network, as peer ids."""
        self._rules_of = rules_of
        self._publishers = frozenset(publishers)
        self._signatures = Publishers()
        self._models: dict[ModelName, _OwnedModel] = {}
        self._load_check: dict[PeerId, dict[tuple[ModelName, ModelVersion], Claim]] = {}
        self._signed: dict[PeerId, tuple[NodeAdvert, str]] = {}
        """The last advert of each node that shows signatures, with its invite: whose count may change."""
        self._open: OrderedDict[ModelName, None] = OrderedDict()
        """Models of which something is to be decided, in order."""
        self._brought: Counter[str] = Counter()
        self._count = 0
        self._reported: OrderedDict[tuple[ModelName, ModelVersion, str], None] = OrderedDict()
        self._news: list[News] = []
        self._has_room_left = True
        """False: what is being heard has brought more than may be remembered."""
        self.is_changed = False
        """Whether `pins` returns something else than when it was last called, but for who holds them."""
        self.has_new_holders = False

    def __repr__(self) -> str:
        return f"Owners({self._count} versions of {len(self._models)} models)"

    # what holds

    def admits(self, model: ModelName, version: ModelVersion, digest: str) -> bool:
        """Return whether nodes that replica this digest may be asked for the version."""
        owned = self._version(model, version)
        return owned is not None and owned.digest == digest

    def is_trusted(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether a request that names no version may go to this one as to any other."""
        owned = self._version(model, version)
        return owned is not None and owned.is_trusted

    def may_try(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether a small share of such requests may go to a version that is not trusted."""
        known = self._models.get(model)
        return known is not None and not self._is_owned(known) and version in known.versions

    def invite_of(self, model: ModelName, peer: PeerId) -> str:
        """Return which invite has admitted a node that hosts the model; "" where it does not."""
        known = self._models.get(model)
        return "" if known is None else known.peers.get(peer, "")

    def withheld(self, model: ModelName, version: ModelVersion) -> str:
        """Return why nodes that say to host the version are not asked, for people; "" when there are none.

        With the version "", why no version is chosen for a request that names none.
        """
        known = self._models.get(model)
        if known is None or not known.peers:
            return ""
        if not version:
            if any(one.is_trusted and one.is_hosted() for one in known.versions.values()):
                return ""
            on_trial = [one.version for one in known.versions.values() if one.load_check]
            return (
                f"model {model!r} is hosted at {', '.join(sorted(on_trial, key=int)[:8])}, which this router does not"
                " trust yet; name the version, or name its digest in the router's rules"
            )
        owned = known.versions.get(version)
        if owned is None or not owned.load_check or owned.is_hosted():
            return ""
        others = sorted({claim.digest[:19] for claim in owned.load_check.values()})[:4]
        return (
            f"model {model!r} version {version} is {_why_text(owned)}; the nodes that are there host other files under"
            f" that name ({', '.join(others)}…) and are not asked"
        )

    def pins(self) -> list[Pin]:
        """Return what is to be remembered."""
        self.is_changed = self.has_new_holders = False
        return [
            owned.pin()
            for known in self._models.values()
            for owned in known.versions.values()
            if owned.digest
        ]

    def take_news(self) -> list[News]:
        """Return what happened since the last call."""
        news, self._news = self._news, []
        return news

    def contested(self) -> int:
        """Return how many versions have nodes that replica another file than the one that is served."""
        return sum(
            any(claim.digest != owned.digest for claim in owned.load_check.values())
            for known in self._models.values()
            for owned in known.versions.values()
        )

    def on_trial(self) -> int:
        """Return how many hosted versions are not trusted."""
        return sum(
            bool(owned.load_check) and not owned.is_trusted
            for known in self._models.values()
            for owned in known.versions.values()
        )

    def described(self) -> list[dict[str, object]]:
        """Return each version that a node replicas, for people and JSON; at most `MAX_SHOWN` of them."""
        shown: list[dict[str, object]] = []
        for _, known in sorted(self._models.items()):
            if len(shown) >= MAX_SHOWN:
                break
            is_owned = self._is_owned(known)
            hosted = [owned for owned in known.versions.values() if owned.load_check]
            hosted.sort(key=lambda owned: int(owned.version))
            shown += [_described(owned, is_owned=is_owned) for owned in hosted]
        return shown[:MAX_SHOWN]

    def description(self, model: ModelName, version: ModelVersion) -> dict[str, object] | None:
        """Return the same of one version, None where it is not known."""
        known = self._models.get(model)
        owned = None if known is None else known.versions.get(version)
        if known is None or owned is None:
            return None
        return _described(owned, is_owned=self._is_owned(known))

    # what happens

    def remember(self, pins: Iterable[Pin], now_s: float) -> None:
        """Take over what was remembered; to be called before anything is heard."""
        for pin in pins:
            if self._count >= MAX_PINS or self._version(pin.model, pin.version) is not None:
                continue
            known = self._models.setdefault(pin.model, _OwnedModel(now_s))
            known.versions[pin.version] = OwnedVersion.of(pin, now_s)
            self._count += 1
            if pin.is_trusted:
                known.settled_s = now_s
            self._open[pin.model] = None

    def heard(self, advert: NodeAdvert, invite: str, now_s: float) -> Judged:
        """A node, admitted by `invite`, says what it replicas."""
        if any(offer.signed for offer in advert.models):
            self._signed[advert.peer] = advert, invite
        else:
            self._signed.pop(advert.peer, None)
        self._take_in(advert, invite, now_s)
        return self._decide(now_s)

    def _take_in(self, advert: NodeAdvert, invite: str, now_s: float) -> None:
        peer = advert.peer
        self._has_room_left = True
        before = self._load_check.get(peer, {})
        ready: dict[tuple[ModelName, ModelVersion], Claim] = {}
        signers = self._signatures.signers(advert, self._accepted)
        for at, offer in enumerate(advert.models):
            # what was unloaded for want of memory is hosted as before, and may be loaded for who asks
            if offer.is_ready or (offer.state is ModelState.UNLOADED and offer.digest):
                claim = Claim(peer, invite, offer.digest, signers.get(at, ""))
                ready[offer.name, offer.version] = claim
        for key in before.keys() - ready.keys():
            self._leaves(key, peer, now_s)
        for key, claim in ready.items():
            if before.get(key) != claim:
                self._brings(key, claim, now_s)
        if ready:
            self._load_check[peer] = ready
        else:
            self._load_check.pop(peer, None)

    def left(self, peer: PeerId, now_s: float) -> Judged:
        """A node is gone."""
        self._signed.pop(peer, None)
        for key in self._load_check.pop(peer, {}):
            self._leaves(key, peer, now_s)
        return self._decide(now_s)

    def tick(self, now_s: float) -> Judged:
        """Time has passed; to be called about every second."""
        for name, known in self._models.items():
            if known.due_s <= now_s:
                self._open[name] = None
        return self._decide(now_s)

    def take_rules(self, now_s: float) -> Judged:
        """The operator's rules have changed, and with them maybe whose signatures count."""
        for advert, invite in self._signed.values():
            self._take_in(advert, invite, now_s)
        for name in self._models:
            self._open[name] = None
        return self._decide(now_s, looks=math.inf)

    def take_publishers(self, publishers: Collection[str], now_s: float) -> Judged:
        """The network names other publishers, as peer ids."""
        self._publishers = frozenset(publishers)
        return self.take_rules(now_s)

    # inside

    def _version(self, model: ModelName, version: ModelVersion) -> OwnedVersion | None:
        known = self._models.get(model)
        return None if known is None else known.versions.get(version)

    def _accepted(self, model: ModelName) -> frozenset[str]:
        publishers = self._rules_of(model).publishers
        return self._publishers if publishers is None else publishers

    def _brings(self, key: tuple[ModelName, ModelVersion], claim: Claim, now_s: float) -> None:
        model, version = key
        known = self._models.get(model)
        owned = None if known is None else known.versions.get(version)
        if owned is None:
            # to find room is dear, and an advert may bring a thousand versions
            self._has_room_left = self._has_room_left and self._has_room(claim.invite)
            if not self._has_room_left:
                return
            if known is None:
                known = self._models[model] = _OwnedModel(now_s)
            owned = OwnedVersion(model, version, now_s, brought_by=claim.invite)
            known.versions[version] = owned
            self._count += 1
            self._brought[claim.invite] += 1
        assert known is not None  # noqa: S101 - it has the version
        known.peers[claim.peer] = claim.invite
        self.has_new_holders |= claim.peer not in owned.holders
        is_open = owned.brings(claim, now_s)
        if owned.digest and claim.digest != owned.digest:
            self._tell_ignored(owned, claim)
        if is_open or not owned.is_trusted or now_s < known.settled_s:
            self._open[model] = None

    def _leaves(self, key: tuple[ModelName, ModelVersion], peer: PeerId, now_s: float) -> None:
        model, version = key
        known = self._models.get(model)
        owned = None if known is None else known.versions.get(version)
        if known is None or owned is None:
            return
        if owned.leaves(peer, now_s) or len(known.versions) > 1:
            self._open[model] = None
        if not any(peer in each.load_check for each in known.versions.values()):
            known.peers.pop(peer, None)

    def _has_room(self, invite: str) -> bool:
        """Return whether one more version may be remembered that the invite's members bring; makes room if it can."""
        if self._brought[invite] < MAX_OF_INVITE and self._count < MAX_PINS:
            return True
        is_full = self._count >= MAX_PINS
        idle = [
            owned
            for known in self._models.values()
            for owned in known.versions.values()
            if not owned.load_check and (is_full or owned.brought_by == invite)
        ]
        if not idle:
            return False
        idle.sort(key=lambda owned: (owned.is_trusted, owned.seen_s))
        for owned in idle[: max(1, len(idle) // 2)]:  # many at once, since to find them is dear
            self._forget(owned)
        return self._brought[invite] < MAX_OF_INVITE and self._count < MAX_PINS

    def _forget(self, owned: OwnedVersion) -> None:
        known = self._models[owned.model]
        del known.versions[owned.version]
        self._count -= 1
        self._brought[owned.brought_by] -= 1
        if not self._brought[owned.brought_by]:
            del self._brought[owned.brought_by]
        if not known.versions:
            del self._models[owned.model]
            self._open.pop(owned.model, None)
        self.is_changed = True

    # deciding

    def _decide(self, now_s: float, *, looks: float = LOOKS) -> Judged:
        """Decide what is open, as far as `looks` at nodes reach."""
        judged = Judged()
        while self._open and looks > 0:
            name, _ = self._open.popitem(last=False)
            known = self._models.get(name)
            if known is not None:
                looks -= (1 + len(known.versions)) * (1 + len(known.peers))
                self._judge(name, known, now_s, judged)
        return judged

    def _judge(self, name: ModelName, known: _OwnedModel, now_s: float, judged: Judged) -> None:
        rules = self._rules_of(name)
        accepted = self._accepted(name)
        is_signed_only = rules.publishers is not None
        for version, owned in known.versions.items():
            before, why = owned.digest, owned.why
            ruled = rules.digests.get(version, "")
            if owned.decide(ruled, accepted, now_s, is_signed_only=is_signed_only):
                judged.peers.update(owned.load_check)
                judged.models.add(name)
                self.is_changed = True
                self._tell_moved(owned, before)
            elif owned.why is not why:
                self.is_changed = True
        trusted = self._trusted(known, rules, now_s)
        for version, owned in known.versions.items():
            is_trusted = version in trusted
            if owned.load_check and not is_trusted and now_s >= known.settled_s:
                self._tell_on_trial(owned)
            if is_trusted is not owned.is_trusted:
                owned.is_trusted = is_trusted
                judged.models.add(name)
                self.is_changed = True
                if is_trusted and now_s >= known.settled_s:  # at first nearly all are
                    self._tell_trusted(owned)
        self._plan(known, now_s)

    def _plan(self, known: _OwnedModel, now_s: float) -> None:
        times_s = [known.settled_s] if known.settled_s > now_s else []
        for owned in known.versions.values():
            is_open = not owned.is_trusted or not owned.is_hosted() or now_s < owned.settled_s
            if owned.load_check and is_open:
                times_s += owned.due_s(now_s)
        if known.peers and not any(
            owned.is_trusted and owned.is_hosted() for owned in known.versions.values()
        ):
            seen_s = self._seen_s(known)
            times_s += [due_s for due_s in (seen_s + GRACE_S, seen_s + KEEP_S) if due_s > now_s]
        known.due_s = min(times_s, default=math.inf)

    def _is_owned(self, known: _OwnedModel) -> bool:
        """Return whether the rules or a publisher say what some version is."""
        return any(owned.digest and owned.why is not Why.FIRST for owned in known.versions.values())

    def _trusted(
        self, known: _OwnedModel, rules: OwnerRules, now_s: float
    ) -> Collection[ModelVersion]:
        """Return the versions that are trusted now."""
        versions = known.versions
        if self._is_owned(known):
            return {
                version
                for version, owned in versions.items()
                if owned.why is not Why.FIRST or version in rules.weighted
            }
        kept = {version for version, owned in versions.items() if owned.is_trusted}
        if now_s < known.settled_s or not kept:
            return self._first(known) | (rules.weighted & versions.keys())
        kept |= rules.weighted & versions.keys()
        others = [version for version in versions if version not in kept]
        others = [version for version in others if versions[version].load_check]
        if others:
            voters = self._electorate(known, kept, now_s)
            kept |= {version for version in others if self._is_backed(known, version, voters)}
        return kept

    def _first(self, known: _OwnedModel) -> set[ModelVersion]:
        """Return the versions that most invites of a new model have, or the one of which the most is there."""
        choices = [
            (known.peers[peer], version)
            for version, owned in known.versions.items()
            for peer, claim in owned.load_check.items()
            if claim.digest == owned.digest
        ]
        best = first_among(choices)
        if best is None:
            return {version for version, owned in known.versions.items() if owned.is_trusted}
        return {best} | {
            version
            for version in known.versions
            if winner(self._for(known, version, known.peers)) is True
        }

    def _electorate(
        self, known: _OwnedModel, trusted: Collection[ModelVersion], now_s: float
    ) -> _Electorate:
        """Return who decides about versions that are not trusted."""
        incumbents: dict[PeerId, str] = {}
        abstaining: set[str] = set()
        invites: set[str] = set()
        for version in trusted:
            owned = known.versions[version]
            incumbents |= {
                claim.peer: claim.invite
                for claim in owned.load_check.values()
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
        away_s = now_s - self._seen_s(known)
        heirs = {peer: invite for peer, invite in known.peers.items() if invite in invites}
        if heirs and away_s >= GRACE_S:
            return _Electorate(heirs, {}, set())
        if away_s >= KEEP_S:
            return _Electorate(known.peers, {}, set())
        return _Electorate({}, {}, set())

    def _is_backed(
        self, known: _OwnedModel, version: ModelVersion, electorate: _Electorate
    ) -> bool:
        incumbents = self._for(known, version, electorate.incumbents)
        if incumbents:
            incumbents |= dict.fromkeys(electorate.abstaining)
        if winner(incumbents) is True:
            return True
        everybody = self._for(known, version, electorate.everybody)
        everybody |= dict.fromkeys(electorate.abstaining)
        in_favour = sum(vote is True for vote in everybody.values())
        return in_favour > 1 and winner(everybody) is True

    def _for(
        self, known: _OwnedModel, version: ModelVersion, peers: Mapping[PeerId, str]
    ) -> dict[str, bool | None]:
        """Return each invite's vote on whether the version is hosted as it is served."""
        owned = known.versions[version]
        return votes(
            (invite, peer in owned.load_check and owned.load_check[peer].digest == owned.digest)
            for peer, invite in peers.items()
        )

    def _seen_s(self, known: _OwnedModel) -> float:
        """Return when a holder of a trusted version was there last."""
        return max(
            (owned.seen_s for owned in known.versions.values() if owned.is_trusted),
            default=-math.inf,
        )

    # news

    def _tell(self, event: str, owned: OwnedVersion, **fields: object) -> None:
        if len(self._news) >= MAX_NEWS:
            return
        self._news.append(News(event, owned.model, owned.version, fields))

    def _tell_ignored(self, owned: OwnedVersion, claim: Claim) -> None:
        if not self._is_new((owned.model, owned.version, claim.digest)):
            return
        self._tell(
            "model_digest_ignored",
            owned,
            peer=claim.peer,
            invite=claim.invite,
            digest=claim.digest,
            served=owned.digest,
            why=owned.why.value,
        )

    def _tell_moved(self, owned: OwnedVersion, before: str) -> None:
        if before or owned.why is not Why.FIRST:
            self._tell(
                "model_digest_served",
                owned,
                digest=owned.digest,
                before=before,
                why=owned.why.value,
                publisher=owned.publisher,
            )
        for claim in owned.load_check.values():
            if claim.digest != owned.digest:
                self._tell_ignored(owned, claim)

    def _tell_trusted(self, owned: OwnedVersion) -> None:
        self._tell("model_version_trusted", owned, digest=owned.digest, why=owned.why.value)

    def _tell_on_trial(self, owned: OwnedVersion) -> None:
        if self._is_new((owned.model, owned.version, f"on trial {owned.digest}")):
            peers = [claim.peer for claim in owned.load_check.values()][:SHOWN_PEERS]
            self._tell("model_version_on_trial", owned, digest=owned.digest, peers=peers)

    def _is_new(self, key: tuple[ModelName, ModelVersion, str]) -> bool:
        """Return whether this has not been told lately."""
        if key in self._reported:
            return False
        self._reported[key] = None
        if len(self._reported) > MAX_REPORTED:
            self._reported.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class _Electorate:
    """Who decides whether a version is trusted, each with its invite."""

    incumbents: Mapping[PeerId, str]
    everybody: Mapping[PeerId, str]
    """The incumbents, and the nodes of the invites that have none."""
    abstaining: set[str]


def _why_text(owned: OwnedVersion) -> str:
    if not owned.digest:
        return "to be signed by a publisher that the router's rules name, and none has signed it"
    match owned.why:
        case Why.RULES:
            how = "by the router's rules"
        case Why.SIGNED:
            how = f"as {owned.publisher} has signed it"
        case Why.FIRST:
            how = "as it was first seen"
    return f"{owned.digest[:19]}… {how}"


def _described(owned: OwnedVersion, *, is_owned: bool) -> dict[str, object]:
    others: dict[str, list[str]] = {}
    for claim in owned.load_check.values():
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
        "nodes": sum(claim.digest == owned.digest for claim in owned.load_check.values()),
        "others": [
            {"digest": digest, "nodes": len(peers), "peers": peers[:SHOWN_PEERS]}
            for digest, peers in sorted(others.items())[:SHOWN_PEERS]
        ],
    }
