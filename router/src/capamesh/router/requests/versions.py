"""Picks the version of one model that a request goes to, by who can serve it now. Pure.

A request that names no version goes to the newest, or by the operator's weights. A version of which no replica may be
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

from typing_extensions import override

from capamesh.router.balancing.eligibility import Eligibility
from capamesh.router.fleet.hosted_version import NO_RANKING
from capamesh.router.requests.split import NEWEST, VersionSplit
from capamesh.router.rules.constraints import Constraints

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.fleet.view import FleetView

TRIAL_SHARE = 0.01
"""The largest share of the requests that name no version and have no key to be sent first to a version that is not trusted
(guess: enough to see a version work within minutes, too little to matter)."""


class Versions:
    """The versions of one model, as requests that name none see them."""

    __slots__ = ("_balancer", "_fleet", "_model", "_rng", "_split", "_trial_credit")

    def __init__(
        self,
        model: ModelName,
        split: VersionSplit,
        *,
        fleet: FleetView,
        balancer: Balancer,
        rng: random.Random,
    ) -> None:
        self._model = model
        self._split = split
        self._fleet = fleet
        self._balancer = balancer
        self._rng = rng
        self._trial_credit = 0.0
        """The number of requests that may be sent on trial; below 1 none may."""

    @override
    def __repr__(self) -> str:
        return f"Versions({self._model!r}, {self._split!r})"

    def pick(
        self, asked: ModelVersion, key: str, constraints: Constraints, now_s: float
    ) -> ServedModel:
        """Return the traffic of the version to ask: the one `asked` for, else by weight or the newest.

        One of which a replica may be asked now, if there is any. Raises what `Balancer.served` raises.
        """
        ranking = self._fleet.rankings.get(self._model, NO_RANKING)
        picked, split = asked or ranking.newest, self._split
        if not asked and split.is_weighted:
            picked = split.pick(ranking.trusted, self._rng, key=key)
        served = self._balancer.served(self._model, picked)
        if asked or len(ranking.trusted) == 1:
            return served
        constraints = served.rules.constraints.both(constraints)
        rules = Eligibility(constraints, now_s=now_s, draw=self._rng.random())
        return self.open_from(served, rules, key)

    def foreseen(self, rng: random.Random) -> Versions:
        """Return the versions for a look ahead: what it draws is of `rng`, and what it makes is not kept."""
        return Versions(
            self._model,
            self._split,
            fleet=self._fleet,
            balancer=self._balancer.foreseen(rng),
            rng=rng,
        )

    def trial(self, served: ServedModel) -> ServedModel | None:
        """Return the traffic of the version that a request for `served` is first sent to on trial; None: none.

        A version is tried only where a request may be run twice: a trusted one answers in its place if the one on
        trial does not, or says that the request is wrong.
        """
        trials = self._fleet.rankings.get(self._model, NO_RANKING).trials
        if not trials or self._split.is_weighted:
            return None
        self._trial_credit += TRIAL_SHARE
        if self._trial_credit < 1.0 or not served.rules.is_retried:
            return None
        self._trial_credit = 0.0  # not for later: a share that was not used is lost
        version = trials[int(self._rng.random() * len(trials))]
        tried = self._balancer.served(self._model, version)
        return tried if served.may_repeat() and tried.may_repeat() else None

    def open_from(
        self, served: ServedModel, rules: Eligibility, key: str, *, is_second: bool = False
    ) -> ServedModel:
        """Return `served` if `rules` leave a replica of it open, else that of the next version of which they do.

        When there is none, that of the first with a replica that is there at all; else `served`. With a `key` it is
        enough that a replica is there. A second attempt (`is_second`) of what may run twice goes to no version that
        may not.
        """
        is_fit = rules.is_there if key else rules.is_open
        if _has(served.replicas, is_fit):
            return served
        resort: ServedModel | None = None
        left = set(self._fleet.trusted(self._model))
        left.discard(served.version)
        while left:
            version = self._split.pick(left, self._rng, key=key)
            if version == NEWEST:
                if self._split.has(served.version):
                    break  # an operator who gave weights wants no others
                version = max(left, key=int)
            left.discard(version)
            other = self._balancer.served(self._model, version)
            if is_second and served.may_repeat() and not other.may_repeat():
                continue
            if _has(other.replicas, is_fit):
                return other
            if resort is None and _has(other.replicas, rules.is_there):
                resort = other
        if resort is not None and not _has(served.replicas, rules.is_there):
            return resort
        return served

    def served_models(self) -> list[ServedModel]:
        """Return the traffic of all versions to which a request may go, in no order."""
        hosted = self._fleet.trusted(self._model)
        wanted = [version for version in hosted if self._split.has(version)] or hosted
        return [self._balancer.served(self._model, version) for version in wanted]


def _has(replicas: Iterable[Replica], is_fit: Callable[[Replica], bool]) -> bool:
    for replica in replicas:  # noqa: SIM110 - `any` would make a generator for each request
        if is_fit(replica):
            return True
    return False
