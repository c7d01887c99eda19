"""Answers calls for which an equal one was answered before, or is under way: the layer between version and admission. Pure.

Only where the operator's rules say so of a model, and only what it is sure of: a model that all its nodes call deterministic
and idempotent, that has no sequences and is no pipeline (whose digest is not that of its models), in a version that is
trusted. What failed is not kept, nor what another version answered than was asked, nor a file that was replaced meanwhile,
nor what a node said that has just come or was proved wrong of late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, LocalError
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.cache.entry import Entry, Layouts
from capamesh.router.cache.key import MOST_INPUT_BYTES, Keys, input_bytes, mark_of
from capamesh.router.requests.call import Handle, Outcome
from capamesh.router.requests.known_versions import Known, Tally, digest_of, is_newcomer
from capamesh.router.requests.shared_run import SharedRun
from capamesh.router.timers import Alarms

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.cache.shared import Shared, SharedAnswers
    from capamesh.router.cache.store import Store
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.requests.call import Call, Responder
    from capamesh.router.requests.shared_run import Start
    from capamesh.router.rules.model_rules import CacheRule
    from capamesh.router.timers import Timers

KNOWN_S: Final = 1.0
"""Seconds for which what is known of a version is taken to stay the same while its replicas are the same (guess)."""
MOST_KNOWN: Final = 1024
"""The most versions of which that is known (guess: more than are in use)."""


class CachedRun(SharedRun):
    """A run whose answer is kept."""

    __slots__ = ("_cache", "era", "is_looked_up", "key", "known", "mark", "rule", "served")

    def __init__(
        self,
        cache: AnswerCache,
        call: Call,
        responder: Responder,
        key: bytes,
        mark: int,
        known: Known,
        served: ServedModel,
        rule: CacheRule,
    ) -> None:
        super().__init__(call, responder, cache.start, cache.alarms)
        self._cache = cache
        self.key = key
        """The key of its answer; empty: nobody has needed it."""
        self.mark = mark
        self.known = known
        """Tells what was known of the version when it began."""
        self.served = served
        self.rule = rule
        self.era = cache.era
        self.is_looked_up = False
        """True if it begins by itself when no other router has kept the answer."""

    @override
    def close(self) -> None:
        super().close()
        self._cache.ended(self)

    @override
    def complete(self, outcome: Outcome) -> None:
        self._cache.keep(self, outcome)
        if outcome.attempts and self.is_awaited_first:
            outcome.picker.served.hosted.requests.missed += 1
        super().complete(outcome)

    def give(self, entry: Entry) -> None:
        """Answer all who wait with a kept answer."""
        super().complete(Outcome(entry.answer, entry.peer, None, 0, self.known.picker, entry))


class LookUp(Handle):
    """Looks for a run's answer at the store that routers share, and begins the run when none is found."""

    __slots__ = ("_cache", "_handle", "_is_over", "_run")

    def __init__(self, cache: AnswerCache, run: CachedRun) -> None:
        self._cache = cache
        self._run = run
        self._handle: Handle | None = None
        self._is_over = False

    @property
    @override
    def picker(self) -> RequestPicker | None:
        return None if self._handle is None else self._handle.picker

    @override
    def cancel(self) -> None:
        self._is_over = True
        if self._handle is not None:
            self._handle.cancel()

    def found(self, shared: Shared | None, age_s: float) -> None:
        """Take what was found: answer with it, or begin the run."""
        if self._is_over:
            return
        run = self._run
        try:
            entry = None if shared is None else self._cache.taken(run, shared, age_s)
            if entry is not None:
                run.give(entry)
            else:
                self._handle = self._cache.start(run.call, run)
        except CapameshError as error:
            run.fail(error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - those who wait are not to do so for ever
            run.fail(LocalError(f"the router failed on this request: {error!r:.80}"))


class _Answered(Handle):
    """The handle of a call that was answered at once."""

    __slots__ = ()

    @property
    @override
    def picker(self) -> RequestPicker | None:
        return None

    @override
    def cancel(self) -> None:
        pass


ANSWERED: Final = _Answered()


class AnswerCache:
    """The kept answers of one router, and the runs that calls may join."""

    def __init__(
        self,
        store: Store,
        fleet: FleetView,
        start: Start,
        *,
        clock: Callable[[], float],
        timers: Timers,
    ) -> None:
        """`start` sends a call on its way from the beginning."""
        self.store = store
        self.start = start
        self.alarms = Alarms(timers, clock)
        self.era = 0
        """Counts how often all was dropped: a run that began before is not kept."""
        self.shared: SharedAnswers | None = None
        """The answers that it shares with other routers; None: it shares none."""
        self._fleet = fleet
        self._clock = clock
        self._keys = Keys()
        self._layouts = Layouts()
        self._runs: dict[int, CachedRun] = {}
        """The runs that may be joined, one for each mark."""
        self._others: dict[bytes, CachedRun] = {}
        """The other runs by their keys, whose mark a run of another request has."""
        self._known: dict[tuple[ModelName, ModelVersion], Known] = {}
        self._tallies: dict[ModelName, Tally] = {}

    @override
    def __repr__(self) -> str:
        return f"AnswerCache({self.store!r}, {len(self._runs) + len(self._others)} runs)"

    def counts(self) -> Iterable[tuple[tuple[str, str], int]]:
        """Return how many calls of each model came to which result."""
        return [
            ((model, result), count)
            for model, tally in self._tallies.items()
            for result, count in tally.results()
        ]

    def not_kept(self) -> Iterable[tuple[tuple[str], int]]:
        """Return how many answers of each model were not kept though their calls were looked up."""
        return [((model,), each.not_kept) for model, each in self._tallies.items() if each.not_kept]

    def ask(
        self, call: Call, served: ServedModel, rule: CacheRule, responder: Responder, now_s: float
    ) -> Handle | CachedRun | None:
        """Answer the call, or let it join one that is under way, and return its handle; else return the run for it.

        A run that is not `is_looked_up` is to be begun. None: it is a call like any other, which takes no kept answer and leaves none.
        """
        request, options = call.request, call.options
        known = self._known.get((served.model, served.version))
        if (
            known is None
            or known.replicas is not served.hosted.replicas
            or not 0 <= now_s - known.at_s < KNOWN_S
        ):
            known = self._look(served, now_s)
        if (
            not known.digest
            or not options.may_be_kept
            or request.sequence is not None
            or request.takes_parts
            or input_bytes(request) > MOST_INPUT_BYTES
        ):
            known.tally.passed_by += 1
            return None
        mark, key = mark_of(request), b""
        if options.max_age_s > 0:
            entry: Entry | None = None
            if self.store.may_have(mark):
                key = self._key(call, known, served, rule)
                entry = self.store.get(key)
            if entry is not None:
                age_s = now_s - entry.stored_s
                if age_s >= rule.ttl_s or entry.is_doubtful(known.digest):
                    self.store.drop(entry)
                elif age_s < options.max_age_s:
                    self.store.found()
                    known.tally.hit += 1
                    responder.complete(
                        Outcome(entry.answer, entry.peer, entry.replica, 0, known.picker, entry)
                    )
                    return ANSWERED
            under_way = self._runs.get(mark)
            if under_way is not None or self._others:
                key = key or self._key(call, known, served, rule)
                if under_way is None or self.key_of(under_way) != key:
                    under_way = self._others.get(key)
                if under_way is not None:
                    self.store.found()
                    known.tally.joined += 1
                    return under_way.join(call, responder)
        known.tally.miss += 1
        run = CachedRun(self, call, responder, key, mark, known, served, rule)
        before = self._runs.get(mark)
        if before is None or self.key_of(before) == self.key_of(run):
            self._runs[mark] = run
        else:
            self._others[self.key_of(run)] = run
        shared = self.shared
        if shared is not None and options.max_age_s > 0 and self.store.looks_elsewhere():
            look_up = LookUp(self, run)
            if shared.look_up(self.key_of(run), look_up.found):
                run.is_looked_up = True
                run.began(look_up)
        return run

    def key_of(self, run: CachedRun) -> bytes:
        """Return the key of a run's answer, which is made when it is first needed."""
        if not run.key:
            run.key = self._key(run.call, run.known, run.served, run.rule)
        return run.key

    def _key(self, call: Call, known: Known, served: ServedModel, rule: CacheRule) -> bytes:
        options = call.options
        tenant = None if rule.is_shared else options.tenant
        return self._keys.of(
            call.request, known.digest, served.version, tenant, options.constraints
        )

    def taken(self, run: CachedRun, shared: Shared, age_s: float) -> Entry | None:
        """Return the entry for what another router has kept for so long, which is kept here from now on; None: it is of no use."""
        answer, call, served = shared.answer, run.call, run.served
        replicas = served.hosted.replicas
        if (
            run.era != self.era
            or age_s >= run.rule.ttl_s
            or age_s >= call.options.max_age_s
            or answer.version != served.version
            or not replicas
            or replicas[0].answer_form().misfit(answer, call.request.outputs, call.request.classes)
        ):
            return None
        layout = self._layouts.of(answer)
        stored_s = self._clock() - age_s
        key = self.key_of(run)
        entry = Entry(key, answer, layout, shared.peer, None, stored_s, mark=run.mark)
        self.store.found()
        self.store.put(entry)
        run.known.tally.shared += 1
        return entry

    def keep(self, run: CachedRun, outcome: Outcome) -> None:
        """Keep what a run has come to, if that is sure enough."""
        replica, answer, served = outcome.replica, outcome.answer, run.served
        if outcome.entry is not None or not self.store.wants(run.mark):
            return
        now_s, key = self._clock(), self.key_of(run)
        if (
            replica is None
            or run.era != self.era
            or answer.version != served.version
            or replica.is_out
            or replica.offer.digest != run.known.digest
            or served.is_doubted(replica, now_s)
            or is_newcomer(replica, run.known, now_s)
            or not self.store.put(
                Entry(
                    key,
                    answer,
                    self._layouts.of(answer),
                    outcome.peer,
                    replica,
                    now_s,
                    mark=run.mark,
                )
            )
        ):
            run.known.tally.not_kept += 1
            return
        shared = self.shared
        if shared is not None:
            shared.keep(key, answer, outcome.peer, run.rule.ttl_s)

    def ended(self, run: CachedRun) -> None:
        """Let nobody join a run any more."""
        if self._runs.get(run.mark) is run:
            del self._runs[run.mark]
        elif run.key and self._others.get(run.key) is run:
            del self._others[run.key]

    def clear(self) -> None:
        """Drop all, and keep nothing of what is under way: the rules are others now."""
        self.era += 1
        self.store.clear()
        self._known.clear()
        if self.shared is not None:
            self.shared.drop_all()

    def _look(self, served: ServedModel, now_s: float) -> Known:
        """Find out anew whether a version's answers may be kept."""
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        ranking = self._fleet.rankings.get(served.model)
        is_trusted = ranking is not None and served.version in ranking.trusted
        digest = digest_of(served.hosted.replicas) if is_trusted else ""
        tally = self._tallies.get(served.model)
        if tally is None:
            tally = self._tallies[served.model] = Tally()
        known = Known(served, digest, tally, now_s)
        self._known[served.model, served.version] = known
        return known
