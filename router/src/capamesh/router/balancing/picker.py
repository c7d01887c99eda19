"""One request's side of the balancer: what its `RequestAttempts` asks and tells. Pure.

It holds the rules of this one request and keeps the counts of what is in flight; what an outcome means for the
model's traffic as a whole is that traffic's matter. A request that names no version may change to another version's
traffic between two attempts; what is told of a replica is told to the traffic that it belongs to.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Container, Iterable, Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, ClientError, DeadlineExceeded, Overloaded
from capamesh.router.balancing import bulk_outcomes
from capamesh.router.balancing.deaths import Stand, Suspicion
from capamesh.router.balancing.eligibility import Barred, Eligibility, may_be_probed
from capamesh.router.balancing.explanation import Explanation, explained
from capamesh.router.balancing.fitting import usual_size_bytes
from capamesh.router.balancing.picking import Picker
from capamesh.router.balancing.purpose import FIRST, Purpose
from capamesh.router.balancing.witnesses import is_failure
from capamesh.router.rules.constraints import ANYWHERE, Constraints

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelVersion
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.attempt import Attempt
    from capamesh.router.balancing.picking import OtherVersions
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.balancing.witnesses import Witness
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.policies.policy import Policy
    from capamesh.router.policies.request_shape import RequestShape

FAR_ABOVE = 64
"""A request of so many times the bytes of the model's best batch is not asked again after its worker ended (guess: no
batch grows so large by growing usual)."""
AMPLE_S = 0.05
AMPLE_FACTOR = 4.0
"""A node that has more time left than the first, and than so many times what it should take, cannot say that it is too
late (guess: a lost packet sent again; twice the two runs below which an engine takes a request for late)."""


class RequestPicker(Picker):
    """One request's side of the balancer."""

    __slots__ = (
        "_constraints",
        "_deadline_s",
        "_last",
        "_left",
        "_once",
        "_paid_for",
        "_policy",
        "_suspicion",
        "_trial",
        "_versions",
        "attempts",
        "chosen",
        "served",
        "shape",
        "tried",
        "witnesses",
    )

    def __init__(
        self,
        served: ServedModel,
        constraints: Constraints,
        shape: RequestShape,
        deadline_s: float = math.inf,
        *,
        policy: str = "",
        versions: OtherVersions | None = None,
        trial: ServedModel | None = None,
    ) -> None:
        """Make the picker of a new request, whose `deadline_s` is on the clock of `now_s`; a `policy` of "" is the model's.

        The first attempt goes to a replica of `trial`, if one is fit; those after it to `served`, or to those of
        `versions`. Raises what making a policy of that name raises.
        """
        self.served: ServedModel = served
        """The served model of the version that was chosen last."""
        self._versions = versions
        self._left: dict[ModelVersion, ServedModel] | None = None
        """The served models, by version, that were chosen from before; None if there were no others."""
        self._policy: Policy = served.chooser(policy) if policy else served.policy
        ruled = served.rules.constraints
        self._constraints = constraints if ruled is ANYWHERE else ruled.both(constraints)
        self._deadline_s = deadline_s
        self._last: Eligibility | None = None
        """The rules of the last choice."""
        self.shape = shape
        self.attempts: list[Attempt] = []
        """The attempts so far, kept by `RequestAttempts`."""
        self.chosen: tuple[Replica, ...] = ()
        """The replicas that were asked, in that order."""
        self._suspicion: Suspicion | None = None
        """The suspicion of the request; None while no process has ended while it ran this request."""
        self.witnesses: frozenset[Witness] = frozenset()
        """The nodes whose processes have ended of it, once it is over."""
        self._trial = trial
        self._once = ""
        """The invite that alone says that the request may not run twice, once its word does not count; "" before."""
        self._paid_for: Replica | None = None
        """The replica whose word was doubted at the cost of an opinion."""
        self.tried: Replica | None = None
        """The replica of a version on trial that was asked first; None: none was."""

    @override
    def choose(
        self,
        asked: Collection[Replica],
        now_s: float,
        purpose: Purpose = FIRST,
        *,
        is_shunning: bool = False,
        invites: Collection[str] = (),
        is_well: bool = False,
    ) -> Replica:
        """Return a replica that is not in `asked`. Raises `ModelNotFound` or `NoEndpoint` when none is left.

        Nor is it of one of `invites`. `is_shunning` says that these have those to shun after deaths, too; `is_well`, that none
        will do that is not well, nor one of another version.
        """
        if asked and purpose is Purpose.RETRY and not is_shunning:
            other = self._of_another_invite(asked, now_s)
            if other is not None:
                return other
        if self._suspicion is not None and not is_shunning:
            shunned = self._shunned(self._suspicion)
            for each in shunned[:-1]:
                with contextlib.suppress(CapameshError):
                    return self.choose(
                        {*asked, *each}, now_s, purpose, is_shunning=True, invites=invites
                    )
            return self.choose(
                {*asked, *shunned[-1]}, now_s, purpose, is_shunning=True, invites=invites
            )
        barred: Container[Replica] = asked
        if self._once:
            invites = {*invites, self._once}
        if invites:
            barred = Barred(asked, invites, self.served.deaths.invite_of)
        if purpose is FIRST:
            if self._trial is not None:
                tried = self._try(self._trial, barred, now_s)
                if tried is not None:
                    return tried
        elif purpose is Purpose.RETRY and self._versions is not None and not is_well:
            self._change_version(self._versions, barred, now_s)
        served = self.served
        replicas = served.hosted.replicas
        rules = self._last = Eligibility(
            self._constraints,
            self._deadline_s,
            barred,
            now_s,
            served.draw(),
            served.panic.is_on(replicas, now_s),
        )
        if (home := self.shape.home) is not None and rules.is_there(home):
            return home
        is_eligible = rules.allows_bound if self.shape.is_pinned else rules.allows
        replica = self._policy.pick(replicas, is_eligible, self.shape, now_s)
        if replica is None:
            is_extra = is_well or purpose is Purpose.HEDGE or purpose is Purpose.CROSS_CHECK
            replica = rules.last_resort(replicas, is_extra=is_extra)
        if replica is None:
            raise served.nobody(rules)
        return replica

    def _of_another_invite(self, asked: Collection[Replica], now_s: float) -> Replica | None:
        """Return a replica of another invite than those whose nodes failed the request; None: it is fine, or there is none.

        One invite's nodes may lie as one, or be silent as one. One that is silent is not enough to shun its invite: nodes
        freeze. After two failures a replica that is not well, or of another version, is worth a try, too.
        """
        failed = [it.replica for it in self.attempts if it.is_silent or is_failure(it.end)]
        if not failed or self._suspicion is not None:
            return None
        if len(failed) == 1 and self.attempts[-1].is_silent:
            return None
        is_well = len(failed) < 2
        invites = self._invites(failed)
        served_models = [self.served] if is_well else self._served_models()
        if not invites or not any(
            self._invite(replica) not in invites
            for served in served_models
            for replica in served.replicas
        ):
            return None
        with contextlib.suppress(CapameshError):
            return self.choose(
                asked,
                now_s,
                Purpose.RETRY,
                is_shunning=True,
                invites=invites,
                is_well=is_well,
            )
        return None

    def _invite(self, replica: Replica) -> str:
        return self.served.deaths.invite_of(replica.endpoint.peer)

    def _invites(self, replicas: Iterable[Replica]) -> set[str]:
        """Return the invites of `replicas`, as far as they are known."""
        return {self._invite(replica) for replica in replicas} - {""}

    def _shunned(self, suspicion: Suspicion) -> list[list[Replica]]:
        replicas = [replica for served in self._served_models() for replica in served.replicas]
        return self.served.deaths.shunned(suspicion, replicas, self.served.peers())

    def _served_models(self) -> list[ServedModel]:
        """Return all traffic that an attempt may go to."""
        return [self.served] if self._versions is None else self._versions.served_models()

    @override
    def sent(self, replica: Replica, now_s: float) -> None:
        served = self.served
        if replica.rif == replica.streams:
            replica.busy_s = now_s
        replica.rif += 1
        replica.endpoint.rif += 1
        if rows := self.shape.bulk_rows:
            bulk_outcomes.sent(replica, rows)
        elif not self.chosen:  # later attempts earn nothing: they are what is paid for
            served.budget.deposit(now_s)
            served.hedging.sent(now_s)
        self.chosen = (*self.chosen, replica)
        of = served if self._left is None else self._of(replica)
        of.sent(replica, now_s)

    def probes(self, now_s: float) -> Sequence[Replica]:
        """Return the replicas whose load should be asked for because an attempt of this request was just sent."""
        return self._policy.probes(self.served.replicas, may_be_probed, now_s)

    @override
    def answered(
        self,
        replica: Replica,
        load: LoadReport,
        elapsed_s: float,
        at_node_s: float,
        size_bytes: int,
        now_s: float,
    ) -> None:
        replica.rif -= 1
        of = self.served if self._left is None else self._of(replica)
        if rows := self.shape.bulk_rows:
            bulk_outcomes.answered(of, replica, rows, load, elapsed_s, at_node_s, size_bytes, now_s)
        else:
            of.answered(replica, load, elapsed_s, at_node_s, size_bytes, now_s)
            budget = self.served.budget
            if now_s - elapsed_s > budget.asked_s and len(self.chosen) == 1:
                budget.quiet += 1
        replica.endpoint.ended()
        if self._suspicion is not None:
            self.served.deaths.answered(self._suspicion)

    @override
    def failed(
        self, replica: Replica, error: CapameshError, elapsed_s: float, now_s: float
    ) -> None:
        replica.rif -= 1
        of = self._of(replica)
        if rows := self.shape.bulk_rows:
            bulk_outcomes.failed(of, replica, rows, error, elapsed_s, now_s)
        else:
            of.failed(replica, error, elapsed_s, now_s, is_urgent=self.shape.is_urgent)
        if isinstance(error, Overloaded) and of is self.served:
            self._versions = None  # a version that is full is not relieved by another
        replica.endpoint.ended()

    @override
    def silent(self, replica: Replica, elapsed_s: float, now_s: float) -> None:
        self._of(replica).silent(replica, elapsed_s, now_s)

    @override
    def withdrawn(self, replica: Replica, elapsed_s: float, now_s: float) -> None:
        replica.rif -= 1
        if rows := self.shape.bulk_rows:
            bulk_outcomes.ended(replica, rows)
        else:
            is_silent = any(it.is_silent and it.replica is replica for it in self.attempts)
            self._of(replica).unanswered(replica, elapsed_s, now_s, is_silent=is_silent)
        replica.endpoint.ended()

    @override
    def refuted(
        self, replica: Replica, by: Replica, error: CapameshError, elapsed_s: float, now_s: float
    ) -> None:
        # what is wrong for one version may be right for another, unless that is what is tried
        if replica.offer.version == by.offer.version or replica is self.tried:
            is_paid = replica is self._paid_for
            self._of(replica).refuted(replica, by, error, elapsed_s, now_s, is_paid=is_paid)

    @override
    def has_time_left(self, replica: Replica, remaining_s: float) -> bool:
        expected_s = AMPLE_FACTOR * replica.service_s
        return remaining_s - replica.endpoint.network.rtt_s > max(AMPLE_S, expected_s)

    @override
    def died(self, replica: Replica, now_s: float) -> None:
        if self._suspicion is None:
            self._suspicion = Suspicion()
        self.served.deaths.died(replica.endpoint, self._suspicion, now_s)

    @override
    def stand(self, *, is_final: bool = False) -> Stand:
        suspicion = self._suspicion
        if suspicion is None:
            return Stand.FREE
        return self.served.deaths.stand(suspicion, self.served.peers(), is_final=is_final)

    @override
    def is_far_above_usual(self, replica: Replica) -> bool:
        # what one of them says is usual is only its word
        replicas = (replica, *self.served.replicas)
        size_bytes = self.shape.size_bytes
        return all(0 < usual_size_bytes(each.offer) * FAR_ABOVE < size_bytes for each in replicas)

    @override
    def ended(self, *, is_guilty: bool) -> None:
        suspicion = self._suspicion
        if suspicion is not None:
            deaths = self.served.deaths
            self.witnesses = suspicion.witnesses
            (deaths.convicted if is_guilty else deaths.gave_up)(suspicion)

    @override
    def left(self, replica: Replica, now_s: float) -> None:
        replica.endpoint.left_s = now_s

    @override
    def is_alive(self, replica: Replica, since_s: float) -> bool:
        endpoint = replica.endpoint
        return endpoint.alive_s >= since_s or endpoint.linked_s > since_s

    @override
    def is_back(self, replica: Replica, since_s: float) -> bool:
        return replica.endpoint.linked_s > since_s

    @override
    def wait_until_s(self, asked: Collection[Replica], now_s: float) -> float:
        if not self.served.links.has_room(self.shape.size_bytes):
            return -math.inf
        if self._suspicion is not None:
            asked = {*asked, *self._shunned(self._suspicion)[-1]}
        barred: Container[Replica] = asked
        if self._once:
            barred = Barred(asked, (self._once,), self.served.deaths.invite_of)
        rules = Eligibility(self._constraints, self._deadline_s, barred, now_s)
        until_s = (served.awaits_until_s(rules) for served in self._served_models())
        return max(until_s, default=-math.inf)

    @override
    def try_retry(self, now_s: float) -> bool:
        return self.served.rules.is_retried and self.served.budget.try_withdraw(now_s)

    @override
    def try_pass_on(self, now_s: float) -> bool:
        # free while the fleet has room; when it is full, one refusal brings on others
        served = self.served
        is_free = self.shape.bulk_rows > 0 or not served.admission.is_contested
        return is_free or served.budget.try_withdraw(now_s)

    @override
    def cross_check(self, of: Replica, asked: Collection[Replica], now_s: float) -> Replica | None:
        # the replica that is returned is of the same version, and well
        served, attempts = self.served, self.attempts
        if not served.rules.is_retried:
            return None
        heard = self._blaming()
        is_other = self._is_other_there(heard, now_s)
        if not is_other and (len(heard) > 1 or (attempts and attempts[-1].replica is not of)):
            return None
        try:
            if is_other:
                invites = {*self._invites(heard), ""}
                return self.choose(asked, now_s, Purpose.OTHER_INVITE, invites=invites)
            replica = self.choose(asked, now_s, Purpose.CROSS_CHECK)
        except CapameshError:
            return None
        served = self._of(of)
        # nothing is lost on a trial
        if of is not self.tried and not served.is_doubted(of, now_s):
            if not served.try_cross_check(now_s):
                return None
            self._paid_for = of
        return replica

    @override
    def lacks_word(self, now_s: float) -> bool:
        return self._is_other_there(self._blaming(), now_s)

    def _blaming(self) -> list[Replica]:
        """Return the replicas that say that the request is wrong."""
        return [
            it.replica
            for it in self.attempts
            if isinstance(it.end, ClientError) and not isinstance(it.end, DeadlineExceeded)
        ]

    def _is_other_there(self, heard: Iterable[Replica], now_s: float) -> bool:
        """Return whether a node of another invite than those `heard` blame the caller, which is one, may be asked or was."""
        invites = self._invites(heard)
        if len(invites) != 1:
            return False
        invites.add("")
        rules = Eligibility(self._constraints, self._deadline_s, (), now_s)
        return any(
            self._invite(replica) not in invites and rules.is_there(replica)
            for replica in self.served.replicas
        )

    @override
    def may_repeat_after(self, replica: Replica) -> bool:
        invite = self._invite(replica)
        others = [each for each in self.served.replicas if self._invite(each) != invite]
        if not invite or not others or not all(each.offer.is_idempotent for each in others):
            return False
        self._once = invite  # it may be right, for its own nodes
        return True

    @override
    def try_hedge(self, now_s: float) -> bool:
        return self.served.hedging.try_hedge(now_s)

    @override
    def hedge_delay_s(self, now_s: float) -> float | None:
        return self.served.hedging.delay_s(now_s)

    @override
    def first_byte_limit_s(self, replica: Replica, remaining_s: float, now_s: float) -> float:
        if self.shape.bulk_rows:
            return remaining_s  # nobody waits for it, and its deadline is short
        of = self.served if self._left is None else self._of(replica)
        if replica is self.tried:  # what it says of its own pace is not waited for
            of = self.served
            replica = of.replicas[0] if of.replicas else replica
        expected_s = replica.latency_s(self.shape.size_bytes)
        return of.hedging.first_byte_limit_s(now_s, expected_s, remaining_s)

    @override
    def has_answered(self, replica: Replica, since_s: float) -> bool:
        return replica.answered_s > since_s

    def explain(self, now_s: float) -> Explanation:
        """Return why it went where it went, by the rules of the last choice and what is known now."""
        served, last = self.served, self._last
        draw, is_panicking = (0.5, False) if last is None else (last.draw, last.is_panicking)
        rules = Eligibility(self._constraints, self._deadline_s, (), now_s, draw, is_panicking)
        return explained(
            served.model,
            served.version,
            self._policy.name,
            replicas=served.replicas,
            rules=rules,
            chosen=self.chosen,
            attempts=[attempt.record() for attempt in self.attempts],
        )

    # versions

    def _try(self, trial: ServedModel, asked: Container[Replica], now_s: float) -> Replica | None:
        """Return a replica of the version on trial; None: the request is not for it."""
        rules = self._last = Eligibility(
            self._constraints, self._deadline_s, asked, now_s, trial.draw()
        )
        policy = trial.chooser(self._policy.name)
        shape = self.shape.replace(version=trial.version)
        replica = policy.pick(trial.replicas, rules.allows, shape, now_s)
        if replica is not None:
            self._left = {trial.version: trial}
            self.tried = replica
        return replica

    def _change_version(
        self, versions: OtherVersions, asked: Container[Replica], now_s: float
    ) -> None:
        """Go on with the version that was asked before if a replica of it is open, else with another."""
        draw = self.served.draw()
        rules = Eligibility(self._constraints, self._deadline_s, asked, now_s, draw)
        served = versions.open_from(self.served, rules, self.shape.affinity, is_second=True)
        if served is self.served:
            return
        if self._left is None:
            self._left = {}
        self._left[self.served.version] = self.served
        self.served = served
        self._policy = served.chooser(self._policy.name)
        self.shape = self.shape.replace(version=served.version)

    def _of(self, replica: Replica) -> ServedModel:
        if self._left is None:
            return self.served
        return self._left.get(replica.offer.version, self.served)
