"""The owners of the fleet's models: which file each version is, and which versions a request gets that names none. Pure.

`OwnedVersion` decides which file a version is, `trusted_versions` which versions are trusted.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from capamesh.protocol.adverts import ModelState, NodeAdvert
from capamesh.router.ownership.descriptions import choice, described, withheld
from capamesh.router.ownership.news import News, OwnerNews
from capamesh.router.ownership.pins import MAX_PINS, Pin
from capamesh.router.ownership.publishers import Publishers
from capamesh.router.ownership.trust import OwnedModel, trusted_versions
from capamesh.router.ownership.version import GRACE_S, KEEP_S, SETTLE_S, Claim, OwnedVersion
from capamesh.router.rules.model_rules import NO_RULES, RoutingRules

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId

MAX_OF_INVITE = 4096
"""Versions that the members of one invite may have brought first (guess: four nodes full of models)."""
LOOKS = 4000
"""Nodes that are looked at in one turn to decide what is open (guess: some 5 ms); the rest waits for the next tick."""

MAX_SHOWN = 2048
"""Versions on a page (guess: half a megabyte of JSON)."""


@dataclass(slots=True)
class Judged:
    """The versions whose replicas must be looked at again, because another digest is served or trusted."""

    peers: set[PeerId] = field(default_factory=set[Any])
    models: set[ModelName] = field(default_factory=set[Any])


class Owners:
    """Decides for one router. Every `now_s` is in seconds of the caller's monotonic clock: pins hold no times."""

    def __init__(
        self,
        *,
        rules: RoutingRules = NO_RULES,
        publishers: Collection[str] = (),
    ) -> None:
        """`publishers` are those of the network, as peer ids."""
        self._rules = rules
        self._publishers = frozenset(publishers)
        self._signatures = Publishers()
        self._models: dict[ModelName, OwnedModel] = {}
        self._claims: dict[PeerId, dict[tuple[ModelName, ModelVersion], Claim]] = {}
        self._signed: dict[PeerId, tuple[NodeAdvert, str]] = {}
        """The last advert of each node that shows signatures, with its invite: whose count may change."""
        self._open: OrderedDict[ModelName, None] = OrderedDict()
        """Models of which something is to be decided, in order."""
        self._brought: Counter[str] = Counter()
        self._count = 0
        self._news = OwnerNews()
        self._settled_s = math.inf
        """The time from which on it counts who is heard first; infinity while nobody was."""
        self._has_room_left = True
        """True if there is room left; False when what is being heard has brought more than may be remembered."""
        self.is_changed = False
        """True if `pins` returns something else than when it was last called; a change of holders does not count."""
        self.has_new_holders = False

    @override
    def __repr__(self) -> str:
        return f"Owners({self._count} versions of {len(self._models)} models)"

    # what holds

    def admits(self, model: ModelName, version: ModelVersion, digest: str) -> bool:
        """Return whether nodes that host this digest may be asked for the version."""
        owned = self._version(model, version)
        return owned is not None and owned.digest == digest

    def is_trusted(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether a request that names no version may go to this one as to any other."""
        owned = self._version(model, version)
        return owned is not None and owned.is_trusted

    def may_try(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether a small share of such requests may go to a version that is not trusted."""
        known = self._models.get(model)
        return known is not None and not known.is_owned() and version in known.versions

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
        return withheld(model, version, known.versions)

    def choice(self, model: ModelName, version: ModelVersion) -> str:
        """Return why a version is served as it is, for people, where nodes host several files as it; else ""."""
        owned = self._version(model, version)
        return "" if owned is None else choice(owned)

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
        return self._news.take()

    def contested(self) -> int:
        """Return how many versions have nodes that host another file than the one that is served."""
        return sum(
            owned.is_contested()
            for known in self._models.values()
            for owned in known.versions.values()
        )

    def on_trial(self) -> int:
        """Return how many hosted versions are not trusted."""
        return sum(
            bool(owned.claims) and not owned.is_trusted
            for known in self._models.values()
            for owned in known.versions.values()
        )

    def described(self) -> list[dict[str, object]]:
        """Return each version that a node hosts, for people and JSON; at most `MAX_SHOWN` of them."""
        shown: list[dict[str, object]] = []
        for _, known in sorted(self._models.items()):
            if len(shown) >= MAX_SHOWN:
                break
            is_owned = known.is_owned()
            hosted = [owned for owned in known.versions.values() if owned.claims]
            hosted.sort(key=lambda owned: int(owned.version))
            shown += [described(owned, is_owned=is_owned) for owned in hosted]
        return shown[:MAX_SHOWN]

    def description(self, model: ModelName, version: ModelVersion) -> dict[str, object] | None:
        """Return the same of one version, None where it is not known."""
        known = self._models.get(model)
        owned = None if known is None else known.versions.get(version)
        if known is None or owned is None:
            return None
        return described(owned, is_owned=known.is_owned())

    # what happens

    def remember(self, pins: Iterable[Pin], now_s: float) -> None:
        """Take over what was remembered; to be called before anything is heard."""
        for pin in pins:
            if self._count >= MAX_PINS or self._version(pin.model, pin.version) is not None:
                continue
            known = self._models.setdefault(pin.model, OwnedModel(now_s))
            known.versions[pin.version] = OwnedVersion.of(pin, now_s)
            self._count += 1
            if pin.is_trusted:
                known.settled_s = now_s
            self._open[pin.model] = None

    def heard(self, advert: NodeAdvert, invite: str, now_s: float) -> Judged:
        """A node, admitted by `invite`, says what it hosts."""
        if any(offer.signed for offer in advert.models):
            self._signed[advert.peer] = advert, invite
        else:
            self._signed.pop(advert.peer, None)
        if self._settled_s == math.inf:
            self._settled_s = now_s + SETTLE_S
        self._take_in(advert, invite, now_s)
        return self._decide(now_s)

    def _take_in(self, advert: NodeAdvert, invite: str, now_s: float) -> None:
        peer = advert.peer
        self._has_room_left = True
        before = self._claims.get(peer, {})
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
            self._claims[peer] = ready
        else:
            self._claims.pop(peer, None)

    def left(self, peer: PeerId, now_s: float) -> Judged:
        """A node is gone."""
        self._signed.pop(peer, None)
        for key in self._claims.pop(peer, {}):
            self._leaves(key, peer, now_s)
        return self._decide(now_s)

    def expel(self, peers: Collection[str], invites: Collection[str], now_s: float) -> Judged:
        """Forget what those have held who are revoked, there or not: they have no vote any more."""
        for name, known in self._models.items():
            for owned in known.versions.values():
                if owned.expel(peers, invites):
                    self.is_changed = True
                    self._open[name] = None
        return self._decide(now_s)

    def tick(self, now_s: float) -> Judged:
        """Time has passed; to be called about every second."""
        for name, known in self._models.items():
            if known.due_s <= now_s:
                self._open[name] = None
        return self._decide(now_s)

    def take_rules(self, rules: RoutingRules, now_s: float) -> Judged:
        """Go by other rules of the operator, by which other signatures may count."""
        self._rules = rules
        return self._judge_all(now_s)

    def take_publishers(self, publishers: Collection[str], now_s: float) -> Judged:
        """The network names other publishers, as peer ids."""
        self._publishers = frozenset(publishers)
        return self._judge_all(now_s)

    # inside

    def _judge_all(self, now_s: float) -> Judged:
        for advert, invite in self._signed.values():
            self._take_in(advert, invite, now_s)
        for name in self._models:
            self._open[name] = None
        return self._decide(now_s, looks=math.inf)

    def _version(self, model: ModelName, version: ModelVersion) -> OwnedVersion | None:
        known = self._models.get(model)
        return None if known is None else known.versions.get(version)

    def _accepted(self, model: ModelName) -> frozenset[str]:
        publishers = self._rules.of(model).publishers
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
                known = self._models[model] = OwnedModel(now_s)
            owned = OwnedVersion(
                model, version, now_s, brought_by=claim.invite, settled_s=self._settled_s
            )
            known.versions[version] = owned
            self._count += 1
            self._brought[claim.invite] += 1
        assert known is not None  # noqa: S101 - it has the version
        known.peers[claim.peer] = claim.invite
        self.has_new_holders |= claim.peer not in owned.holders
        is_open = owned.brings(claim, now_s)
        if owned.digest and claim.digest != owned.digest:
            self._news.ignored(owned, claim)
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
        if not any(peer in each.claims for each in known.versions.values()):
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
            if not owned.claims and (is_full or owned.brought_by == invite)
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

    def _judge(self, name: ModelName, known: OwnedModel, now_s: float, judged: Judged) -> None:
        rules = self._rules.of(name)
        accepted = self._accepted(name)
        is_signed_only = rules.publishers is not None
        for version, owned in known.versions.items():
            before, why = owned.digest, owned.why
            ruled = rules.digests.get(version, "")
            if owned.decide(ruled, accepted, now_s, is_signed_only=is_signed_only):
                judged.peers.update(owned.claims)
                judged.models.add(name)
                self.is_changed = True
                self._news.moved(owned, before)
            elif owned.why is not why:
                self.is_changed = True
        trusted = trusted_versions(known, rules, now_s)
        for version, owned in known.versions.items():
            is_trusted = version in trusted
            if owned.claims and not is_trusted and now_s >= known.settled_s:
                self._news.on_trial(owned)
            if is_trusted is not owned.is_trusted:
                owned.is_trusted = is_trusted
                judged.models.add(name)
                self.is_changed = True
                if is_trusted and now_s >= known.settled_s:  # at first nearly all are
                    self._news.trusted(owned)
        self._plan(known, now_s)

    def _plan(self, known: OwnedModel, now_s: float) -> None:
        times_s = [known.settled_s] if known.settled_s > now_s else []
        for owned in known.versions.values():
            if owned.claims and (owned.is_contested() or not owned.is_trusted):
                times_s += owned.due_s(now_s)
        if known.peers and not any(
            owned.is_trusted and owned.is_hosted() for owned in known.versions.values()
        ):
            seen_s = known.seen_s()
            times_s += [due_s for due_s in (seen_s + GRACE_S, seen_s + KEEP_S) if due_s > now_s]
        known.due_s = min(times_s, default=math.inf)
