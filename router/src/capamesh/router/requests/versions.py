"""Which version of one model a request goes to, by who can serve it now. Pure.

A request that names no version goes to the newest, or by the operator's weights. A version of which no host may be
asked now is passed by, for the next older one or by the weights of the others: that its nodes have died, drain, cannot
be dialled or are held open is no reason to fail a request that others can answer. A request with a key, as each of a
sequence is, leaves its version for nothing less: that another's run failed there is over in a moment.

Only trusted versions are picked for who names none (`ownership`). A newer one that is not trusted yet is tried with a small
share of those requests, of which none depends on its answer: see `trial`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from capamesh.router.balancing.eligibility import Constraints, Eligibility
from capamesh.router.requests.traffic import NEWEST, VersionSplit

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.served_model import ModelTraffic
    from capamesh.router.fleet.replica import Host
    from capamesh.router.fleet.view import FleetView

TRIAL_SHARE = 0.01
"""Of the requests that name no version and have no key, at most so many are first sent to a version that is not trusted
(guess: enough to see a version work within minutes, too little to matter)."""


class Versions:
    """The versions of one model, as requests that name none see them."""

    __slots__ = ("_balancer", "_chance", "_fleet", "_model", "_rules", "_split", "_trial_credit")

    def __init__(
        self,
        model: ModelName,
        split: VersionSplit,
        *,
        fleet: FleetView,
        balancer: Balancer,
        chance: random.Random,
    ) -> None:
        self._model = model
        self._split = split
        self._fleet = fleet
        self._balancer = balancer
        self._chance = chance
        self._rules = Eligibility()
        """Of whichever request picks: made once, so that a pick costs no more than a look at one host or two."""
        self._trial_credit = 0.0
        """How many requests may be sent on trial; below 1 none may."""

    def __repr__(self) -> str:
        return f"Versions({self._model!r}, {self._split!r})"

    def pick(
        self, asked: ModelVersion, key: str, constraints: Constraints, now_s: float
    ) -> ModelTraffic:
        """Return the traffic of the version to ask: the one `asked` for, else by weight or the newest.

        One of which a host may be asked now, if there is any. Raises what `Balancer.traffic` raises.
        """
        hosted = self._fleet.trusted(self._model)
        picked = self._split.pick(hosted, self._chance, asked=asked, key=key)
        traffic = self._balancer.traffic(self._model, picked)
        if asked or len(hosted) == 1:
            return traffic
        rules = self._rules
        rules.constraints = traffic.terms.with_wishes(constraints)
        rules.now_s = now_s
        rules.luck = self._chance.random()
        return self.open_from(traffic, rules, key)

    def trial(self, traffic: ModelTraffic) -> ModelTraffic | None:
        """Return the traffic of the version that a request for `traffic` is first sent to on trial; None: none.

        A version is tried only where a request may be run twice: a trusted one answers in its place if the one on
        trial does not, or says that the request is wrong.
        """
        trials = self._fleet.trials(self._model)
        if not trials or self._split.is_weighted:
            return None
        self._trial_credit += TRIAL_SHARE
        if self._trial_credit < 1.0 or not traffic.terms.is_retried:
            return None
        self._trial_credit = 0.0  # not for later: a share that was not used is lost
        version = trials[int(self._chance.random() * len(trials))]
        tried = self._balancer.traffic(self._model, version)
        is_safe = _may_repeat(traffic.hosts) and _may_repeat(tried.hosts)
        return tried if is_safe else None

    def open_from(
        self, traffic: ModelTraffic, rules: Eligibility, key: str, *, is_second: bool = False
    ) -> ModelTraffic:
        """Return `traffic` if `rules` leave a host of it open, else that of the next version of which they do.

        When there is none, that of the first with a host that is there at all; else `traffic`. With a `key` it is
        enough that a host is there. A second attempt (`is_second`) of what may run twice goes to no version that
        may not.
        """
        is_fit = rules.is_there if key else rules.is_open
        if _has(traffic.hosts, is_fit):
            return traffic
        resort: ModelTraffic | None = None
        left = set(self._fleet.trusted(self._model))
        left.discard(traffic.version)
        while left:
            version = self._split.pick(left, self._chance, key=key)
            if version == NEWEST:
                if self._split.has(traffic.version):
                    break  # an operator who gave weights wants no others
                version = max(left, key=int)
            left.discard(version)
            other = self._balancer.traffic(self._model, version)
            if is_second and _may_repeat(traffic.hosts) and not _may_repeat(other.hosts):
                continue
            if _has(other.hosts, is_fit):
                return other
            if resort is None and _has(other.hosts, rules.is_there):
                resort = other
        if resort is not None and not _has(traffic.hosts, rules.is_there):
            return resort
        return traffic

    def traffics(self) -> list[ModelTraffic]:
        """Return the traffic of all versions to which a request may go, in no order."""
        hosted = self._fleet.trusted(self._model)
        wanted = [version for version in hosted if self._split.has(version)] or hosted
        return [self._balancer.traffic(self._model, version) for version in wanted]


def _has(hosts: Iterable[Host], is_fit: Callable[[Host], bool]) -> bool:
    for host in hosts:  # noqa: SIM110 - `any` would make a generator for each request
        if is_fit(host):
            return True
    return False


def _may_repeat(hosts: Iterable[Host]) -> bool:
    return all(host.offer.is_idempotent for host in hosts)
