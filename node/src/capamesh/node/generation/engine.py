"""The engine of one model's generation: which run comes next, and what its scores become. Pure.

Sequences that generate are in the slots 0 to B-1 and get a token each at every decoding step; prompts are filled in slots behind them, in
chunks that take turns between two such steps. Slots are moved here, at once; the model is run by whoever owns the thread:

    while plan := engine.plan(now):
        engine.stepped(plan, plan.run(slots), now, took)
        parts = engine.take_parts()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from typing_extensions import override

from capamesh.node.generation.admission import check_request, no_room, too_late
from capamesh.node.generation.answer_lengths import AnswerLengths
from capamesh.node.generation.answering import answer, broken_off, resume
from capamesh.node.generation.decoding import Decoding
from capamesh.node.generation.forecast import first_token_s
from capamesh.node.generation.load import GenerationLoad
from capamesh.node.generation.pace import Pace
from capamesh.node.generation.parts import TokenPart
from capamesh.node.generation.request import GenerationRequest
from capamesh.node.generation.residents import Residents
from capamesh.node.generation.reuse import Reuse
from capamesh.node.generation.sequence import (
    NO_SLOT,
    Constraint,
    Sequence,
    SequencePart,
    TokenText,
)
from capamesh.node.generation.settings import GenerationSettings
from capamesh.node.generation.shares import TenantShares
from capamesh.node.generation.slots import Logits, Slots
from capamesh.node.generation.step_plan import Piece, StepPlan
from capamesh.node.generation.waiting import WaitingQueue, cost, need
from capamesh.protocol.errors import CapameshError, DeadlineExceeded

_MOST_PROMISED: Final = 2**62
_HOLD_S: Final = 1.0
"""How long an answer that goes on here may wait for others that do (guess: half of the silence after which a router gives a stream up)."""
_MOST_REUSED: Final = 4096
"""The tokens of kept prompts that slots are filled with before those who generate get their next token (measured: 5 to 9 µs a token)."""


class GenerationEngine:
    """Continuous batching over the slots of one model. One thread uses it."""

    def __init__(self, slots: Slots, settings: GenerationSettings) -> None:
        self._slots = slots
        self._settings = settings
        self.pool_tokens = slots.count * slots.length
        """Tokens that all slots may hold together."""
        if settings.pool_tokens:
            self.pool_tokens = min(self.pool_tokens, settings.pool_tokens)
        self._most_promised = int(min(self.pool_tokens * settings.overcommit, _MOST_PROMISED))
        self._shares = TenantShares()
        self._waiting = WaitingQueue(
            self._shares,
            max(settings.max_waiting, slots.count),
            max(settings.max_waiting_tokens, self.pool_tokens),
        )
        self._lengths = AnswerLengths()
        self._pace = Pace(settings.target_gap_s, settings.max_chunk)
        self._reuse = Reuse(slots, settings.prefix_bytes)
        self._residents = Residents(slots, settings.target_gap_s)
        self._decoding = Decoding(slots, self._shares, settings.lookup_tokens)
        self._filled_s = 0.0
        """The time that chunks of prompts have taken since the last decoding step."""
        self._may_begin = False
        """True if something changed since nobody who waits could get a slot: a look at the whole queue is not for each step."""
        self._decoded_s = -math.inf
        self._due_s = math.inf
        """The earliest deadline of all, or an earlier time."""
        self._parts: list[SequencePart] = []
        self._orders = self._preemptions = 0

    @override
    def __repr__(self) -> str:
        return f"GenerationEngine({self._residents!r}, {self._waiting.count} wait)"

    def submit(
        self,
        request: GenerationRequest,
        now_s: float,
        new_text: Callable[[], TokenText],
        new_constraint: Callable[[], Constraint] | None = None,
    ) -> tuple[Sequence, ...]:
        """Let `request` wait for its turn; return its choices. Others may give way, and are refused with a part.

        Raises:
            InvalidRequest, TooLarge: it can never be served here.
            Overloaded: there is no room now, or it would not begin before its deadline.
            DeadlineExceeded: its deadline has passed.
        """
        slots = self._slots
        check_request(
            request,
            slots=slots.count,
            length=slots.length,
            pool_tokens=self.pool_tokens,
            vocabulary=slots.vocabulary,
        )
        left_s = request.deadline_s - now_s
        if left_s <= 0:
            raise DeadlineExceeded("the deadline passed before the request came; allow more time")
        first_s = self._first_token_s(len(request.prompt), is_bulk=request.is_bulk)
        if first_s > left_s:
            raise too_late(first_s, left_s)
        leader, *siblings = made = tuple(
            Sequence(
                request,
                request.first_choice + number,
                self._orders,
                slots.length,
                new_text(),
                new_constraint() if new_constraint is not None else None,
            )
            for number in range(request.choices)
        )
        leader.siblings = siblings
        resume(leader)
        self._replay(leader)
        expected = self._lengths.expected(len(leader.out), leader.most_tokens - leader.position)
        for each in made:
            each.expected_tokens = leader.position + math.ceil(expected)
        tokens = cost(leader)
        if not self._waiting.has_room(leader.width, tokens):
            leaving = self._waiting.giving_way(request.client, request.rank, leader.width, tokens)
            refusal = no_room(self._waiting.count, self._waiting.tokens, first_s)
            if leaving is None:
                raise refusal
            for each in leaving:
                for one in (each, *each.siblings):
                    self._break_off(one, refusal)
        self._orders += 1
        self._shares.enter(request.client, leader.width)
        self._waiting.put(leader)
        self._may_begin = True
        self._due_s = min(self._due_s, request.deadline_s)
        return made

    def cancel(self, sequence: Sequence) -> None:
        """End `sequence` without another part; its slot is free with the next plan."""
        if not sequence.is_ended:
            self._retire(sequence, is_cut=sequence.is_full)

    def cancel_all(self, error: CapameshError) -> None:
        """End all sequences with `error`."""
        for sequence in list(self._all()):
            self._break_off(sequence, error)

    def forget_prefixes(self) -> None:
        """Let go of all that is kept of prompts."""
        self._reuse.forget()

    def plan(self, now_s: float) -> StepPlan | None:
        """Return the next run of the model; None if there is nothing to do until something is submitted.

        What has ended leaves its slot, prompts that have run are kept as prefixes, and who waits gets a slot.
        """
        self._expire(now_s)
        self.settle()
        residents = self._residents
        most = self._reuse.hit_tokens + _MOST_REUSED
        while self._begin():
            self.settle()
            if residents.live and self._reuse.hit_tokens >= most:
                break
        plan = self._plan_fill()
        if plan is None:
            plan = self._plan_decode()
        while plan is None and residents.filling:  # all who generated gave way
            plan = self._plan_fill()
        return plan

    def stepped(self, plan: StepPlan, logits: Logits | None, now_s: float, took_s: float) -> None:
        """Take the scores of a run that has ended `now_s` and took `took_s`, as described by `StepPlan.run`."""
        if not plan.is_decode:
            self._filled(plan, logits, took_s)
            return
        self._filled_s = 0.0
        parts = self._decoding.take(plan, logits, took_s)
        self._pace.decoded(self._decoding.fed, took_s, now_s - self._decoded_s)
        self._decoded_s = now_s
        for each in parts:
            self._tell(each.sequence, each.part)

    def _filled(self, plan: StepPlan, logits: Logits | None, took_s: float) -> None:
        self._filled_s += took_s
        if not plan.replays:
            self._pace.filled(len(plan.tokens), took_s)
            sequence = plan.sequences[0]
            self._ran(sequence, took_s)
            if not self._residents.left(sequence):
                if logits is not None:
                    self._reuse.hold(sequence, logits)
                self._join(sequence, logits)
            return
        self._pace.filled(sum(len(each.tokens) for each in plan.replays), took_s)
        for each in plan.replays:
            each.sequence.fed += len(each.tokens)
            self._ran(each.sequence, took_s / len(plan.replays))
        for each in plan.replays:
            if not self._residents.left(each.sequence):
                self._join(each.sequence, each.scores)

    def _ran(self, sequence: Sequence, took_s: float) -> None:
        self._shares.charge(sequence.request.client, took_s)
        self._residents.ran(sequence, took_s)

    def failed(self, plan: StepPlan, error: CapameshError) -> None:
        """End what a run was for that failed, with `error`; nothing is kept of the slots that it has used."""
        for sequence in plan.sequences:
            if not sequence.is_ended:
                self._break_off(sequence, error)
        if plan.is_decode:
            self._residents.clear_live()

    def settle(self) -> None:
        """Keep the prompts that have run, and let what has ended leave its slot; a plan begins with it."""
        live = self._residents.live
        place = 0
        while place < len(live):
            sequence = live[place]
            self._reuse.save_prompt(sequence)
            if not sequence.is_ended:
                place += 1
                continue
            if self._settings.keeps_answers:
                self._reuse.save(sequence, self._slots.used(place))
            self._residents.leave(sequence)
            self._may_begin = True

    def take_parts(self) -> list[SequencePart]:
        """Return the parts that came since this was last called, and forget them."""
        parts, self._parts = self._parts, []
        return parts

    def position(self, sequence: Sequence) -> int:
        """Return how many are before `sequence` in the queue; 0 if it does not wait."""
        return self._waiting.position(sequence) if sequence in self._waiting else 0

    def load(self) -> GenerationLoad:
        """Return a snapshot of the load."""
        residents = self._residents
        return GenerationLoad(
            generating=len(residents.live),
            filling=len(residents.filling),
            waiting=self._waiting.count,
            waiting_tokens=self._waiting.tokens,
            tokens_in_flight=residents.used_tokens,
            promised_tokens=residents.promised_tokens,
            pool_tokens=self.pool_tokens,
            free_slots=residents.free_slots,
            slots=self._slots.count,
            tokens_per_s=self._pace.tokens_per_s,
            prefix_bytes=self._reuse.size_bytes,
            prefix_hits=self._reuse.hit_tokens,
            preemptions=self._preemptions,
            drafted_tokens=self._decoding.drafted,
            accepted_tokens=self._decoding.accepted,
            fill_token_s=self._pace.fill_token_s,
            kept_tokens=self._settings.prefix_bytes // self._slots.token_bytes,
            first_token_s=self._first_token_s(0, is_bulk=False),
        )

    # what a plan is made of

    def _plan_fill(self) -> StepPlan | None:
        """Return the run of the next chunk of a prompt, or of an answer that goes on; None: there is none, those who generate would wait too long, or it gave way for want of room."""
        residents = self._residents
        sequence = residents.turn()
        if sequence is None:
            return None
        # bulk waits for people's prompts, and runs its own in chunks that people can wait for
        is_hurried = residents.has_hurry(sequence, is_held=self._filled_s < _HOLD_S)
        is_alone = not (is_hurried or sequence.request.is_bulk)
        if residents.replays(sequence):
            group = residents.replaying(sequence) if is_alone else [sequence]
            if all(map(residents.replays, group)):
                return self._plan_replay(group, is_hurried=is_hurried, is_alone=is_alone)
            sequence = next(each for each in group if not residents.replays(each))
        at = self._slots.used(sequence.slot)
        left = len(sequence.prefill) - at
        count = self._pace.chunk(left, is_alone=is_alone)
        if is_hurried and self._filled_s and not self._pace.is_in_time(count, self._filled_s):
            return None
        while residents.used_tokens + count > self.pool_tokens:
            if self._give_way() is sequence:
                return None
        return StepPlan(
            (sequence, *sequence.siblings),
            sequence.slot,
            sequence.prefill[at : at + count],
            wants_logits=count == left and sequence.wants_token,
        )

    def _plan_replay(
        self, group: list[Sequence], *, is_hurried: bool, is_alone: bool
    ) -> StepPlan | None:
        """Return a run of known tokens of the answers of a `group`, which is of one unless `is_alone`, as `_plan_fill` does."""
        residents = self._residents
        group = group[: self._slots.most_replayed]
        most = self._slots.most_replayed // len(group)
        if not is_alone:
            most = self._pace.chunk(min(residents.left(group[0]), most), is_alone=False)
        if is_hurried and self._filled_s and not self._pace.is_in_time(most, self._filled_s):
            return None
        pieces = tuple(Piece(each, each.out[each.fed : each.fed + most]) for each in group)
        count = sum(len(each.tokens) for each in pieces)
        while residents.used_tokens + count > self.pool_tokens:
            if self._give_way() in group:
                return None
        return StepPlan(
            tuple(group),
            NO_SLOT,
            [],
            wants_logits=any(
                each.sequence.fed + len(each.tokens) == len(each.sequence.out) for each in pieces
            ),
            replays=pieces,
        )

    def _plan_decode(self) -> StepPlan | None:
        """Return the run of those who generate; None: there are none, or they gave way to the one that is filled."""
        residents = self._residents
        plan = self._decoding.plan(residents.live)
        while plan is not None and residents.used_tokens + plan.size > self.pool_tokens:
            self._give_way()
            plan = self._decoding.plan(residents.live)
        return plan

    def _expire(self, now_s: float) -> None:
        if now_s < self._due_s:
            return
        for sequence in list(self._all()):
            if sequence.request.deadline_s <= now_s:
                has = len(sequence.out)
                self._break_off(
                    sequence,
                    DeadlineExceeded(f"the deadline passed after {has} tokens; allow more time"),
                )
        self._due_s = min((each.request.deadline_s for each in self._all()), default=math.inf)

    def _begin(self) -> bool:
        """Give a slot to who is next, and return whether there was room; prompts that are being filled give way to more urgent ones, and bulk to all others.

        Who has a beginning in common with a prompt that is being filled waits until that has run.
        """
        if not self._may_begin:
            return False
        self._may_begin = False
        residents = self._residents
        for sequence in self._waiting.in_order():
            if self._reuse.is_led(sequence, residents.filling):
                self._may_begin = True  # with the next plan
                continue
            leaving = self._leaving(sequence)
            if leaving is None:
                return False
            for each in leaving:
                if each in residents.filling:
                    self._reuse.save(each, self._slots.used(each.slot))
                self._preempt(each)
            self._waiting.remove(sequence)
            residents.begin(sequence)
            self._may_begin = True
            scores = self._reuse.restore(sequence, residents)
            if not residents.left(sequence):
                self._join(sequence, scores)
            return True
        return False

    def _join(self, sequence: Sequence, scores: Logits | None) -> None:
        """Let `sequence`, whose prompt has run, generate, with its siblings; `scores`, in the shape [vocabulary], are those behind the prompt."""
        self._may_begin = True
        for each in self._residents.join(sequence):
            self._decoding.begin(each)
            if scores is not None and each.wants_token:
                self._tell(each, answer(each, scores))

    def _leaving(self, sequence: Sequence) -> list[Sequence] | None:
        """Return who leaves so that `sequence` may have its slots; None if too few do, and nobody leaves."""
        leaving: list[Sequence] = []
        if self._fits(sequence, leaving):
            return leaving
        residents = self._residents
        less_urgent = residents.filling_behind(sequence.request.rank)
        if not sequence.request.is_bulk:
            less_urgent += residents.bulk_by_loss()
        for each in less_urgent:
            leaving.append(each)
            if self._fits(sequence, leaving):
                return leaving
        return None

    def _fits(self, sequence: Sequence, leaving: list[Sequence]) -> bool:
        """Return whether `sequence` may have its slots once those of `leaving` have left theirs."""
        residents = self._residents
        free, promised = residents.free_slots, residents.promised_tokens
        held = residents.soon_held_tokens
        for each in leaving:
            free += each.width
            promised -= need(each)
            held -= residents.soon_held(each)
        return (
            sequence.width <= free
            and promised + need(sequence) <= self._most_promised
            and held + residents.soon_held(sequence) <= self.pool_tokens
        )

    def _give_way(self) -> Sequence:
        """Put back the least urgent of those that have slots, and return it."""
        worst = self._residents.least_urgent()
        self._preempt(worst)
        return worst

    def _preempt(self, sequence: Sequence) -> None:
        """Take the slot of `sequence`, which waits again and will be computed anew, just as it was."""
        self._preemptions += 1
        self._may_begin = True
        self._residents.leave(sequence)
        sequence.rewind()
        self._replay(sequence)
        self._waiting.put(sequence)

    def _replay(self, sequence: Sequence) -> None:
        """Have the known tokens of the answer of `sequence` run in steps of many, where that gives the bits that they have had.

        Where tokens are guessed, the steps of an answer depend on what came before: it takes them again, one after the other.
        """
        if self._slots.most_replayed and not self._decoding.may_guess(sequence):
            sequence.replayed = len(sequence.out)

    # ends of sequences

    def _tell(self, sequence: Sequence, part: TokenPart) -> None:
        self._parts.append(SequencePart(sequence, part))
        if part.is_last:
            self._retire(sequence, is_cut=part.error is not None or sequence.is_full)

    def _break_off(self, sequence: Sequence, error: CapameshError) -> None:
        self._tell(sequence, broken_off(sequence, error))

    def _retire(self, sequence: Sequence, *, is_cut: bool) -> None:
        """End `sequence` wherever it is; one that generates leaves its slot with the next plan."""
        sequence.is_ended = True
        self._may_begin = True
        request = sequence.request
        self._shares.leave(request.client)
        self._lengths.ended(len(request.resumed), len(sequence.out), request.client, is_cut=is_cut)
        if not self._waiting.withdraw(sequence):
            self._residents.withdraw(sequence)

    # counts

    def _all(self) -> Iterator[Sequence]:
        """Yield all that have not ended."""
        for each in (*self._residents, *self._waiting):
            if not each.is_ended:
                yield each
            yield from each.siblings

    def _first_token_s(self, prompt_tokens: int, *, is_bulk: bool) -> float:
        return first_token_s(
            self._residents,
            self._waiting,
            self._pace,
            self._lengths,
            prompt_tokens,
            is_bulk=is_bulk,
        )
