"""Prompts that take turns, in virtual time: a token of a prompt takes 1 ms, a step of those who generate 8 ms and 1 ms for each."""

from __future__ import annotations

import pytest
from generation_fakes import VOCABULARY, Desk, FakeSlots, ids_alone

from capamesh.node.generation import GenerationRequest, GenerationSettings, SamplingParameters
from capamesh.node.generation.sequence import Sequence

LONG, SHORT = 3900, 40
CAME_S = 0.2
"""The time at which short prompts come behind the long one."""
GREEDY = SamplingParameters(temperature=0.0)


def request(first: int, length: int, max_tokens: int, tenant: str = "") -> GenerationRequest:
    prompt = tuple((first + 7 * at) % VOCABULARY for at in range(length))
    return GenerationRequest(prompt, max_tokens, GREEDY, tenant=tenant)


class TimedDesk(Desk):
    """An engine whose runs take as long as their tokens."""

    def __init__(self, settings: GenerationSettings | None = None, *, count: int = 8) -> None:
        self.slots: FakeSlots
        super().__init__(FakeSlots(count, length=4096), settings)
        self.came_s: dict[Sequence, float] = {}
        self.first_s: dict[Sequence, float] = {}
        """The seconds from a request to its first token."""

    def ask(self, asked: GenerationRequest) -> Sequence:
        (made,) = self.submit(asked)
        self.came_s[made] = self.now_s
        return made

    def timed_step(self) -> bool:
        plan = self.engine.plan(self.now_s)
        if plan is not None:
            took_s = (8 + len(plan.tokens) if plan.is_decode else len(plan.tokens)) / 1e3
            logits = plan.run(self.slots)
            self.now_s += took_s
            self.engine.stepped(plan, logits, self.now_s, took_s)
        for each in self.engine.take_parts():
            self.told[each.sequence].append(each.part)
            asked_s = self.came_s[each.sequence]
            self.first_s.setdefault(each.sequence, self.now_s - asked_s)
        return plan is not None

    def warm(self, generating: int) -> None:
        """Let so many generate, and the times of runs be known."""
        self.ask(request(31, 600, 2))
        while self.timed_step():
            pass
        for first in range(generating):
            self.ask(request(first + 20, 20, 3000))
        while self.engine.load().generating < generating:
            self.timed_step()


def first_tokens(generating: int, *, is_long: bool, shorts: int) -> tuple[list[float], float]:
    """Return the seconds to the first tokens of short prompts, and to that of the long one before them."""
    desk = TimedDesk()
    desk.warm(generating)
    began_s = desk.now_s
    long = desk.ask(request(1, LONG, 2)) if is_long else None
    while is_long and desk.now_s < began_s + CAME_S:
        desk.timed_step()
    late_s = desk.now_s - began_s - CAME_S if is_long else 0.0
    asked = [desk.ask(request(at + 3, SHORT, 24)) for at in range(shorts)]
    for each in asked:
        desk.came_s[each] -= late_s  # it came while a piece ran
    waited = [*asked, *([] if long is None else [long])]
    while any(each not in desk.first_s for each in waited):
        desk.timed_step()
    return [desk.first_s[each] for each in asked], 0.0 if long is None else desk.first_s[long]


@pytest.mark.parametrize("generating", [0, 4])
def test_short_prompts_do_not_wait_for_a_long_one_and_it_hardly_for_them(generating: int) -> None:
    behind, long_s = first_tokens(generating, is_long=True, shorts=3)
    alone, _ = first_tokens(generating, is_long=False, shorts=3)
    _, long_alone_s = first_tokens(generating, is_long=True, shorts=0)
    times = [one / other for one, other in zip(behind, alone, strict=True)]
    assert max(times) <= 3.0, times
    assert long_s <= 1.1 * long_alone_s, (long_s, long_alone_s)


@pytest.mark.full
def test_long_prompt_has_a_quarter_of_the_model_however_many_short_ones_come() -> None:
    desk = TimedDesk()
    desk.warm(0)
    long = desk.ask(request(1, LONG, 1))
    began_s, number = desk.now_s, 0
    while long not in desk.first_s:
        while desk.engine.load().filling + desk.engine.load().waiting < 4:
            number += 1
            prompt = tuple((number // VOCABULARY**at) % VOCABULARY for at in range(SHORT))
            desk.ask(GenerationRequest(prompt[::-1], 1, GREEDY))
        desk.timed_step()
    assert desk.now_s - began_s < 4 * LONG / 1e3


def test_prompt_waits_for_the_beginning_that_another_is_running_and_not_for_the_rest() -> None:
    desk = TimedDesk()
    desk.warm(0)
    shared = request(1, 200, 1).prompt
    first = desk.ask(GenerationRequest((*shared, *(300 * [5])), 1, GREEDY))
    second = desk.ask(GenerationRequest((*shared, 31, 30, 29), 1, GREEDY))
    began = len(desk.slots.extended)
    while second not in desk.first_s:
        desk.timed_step()
    assert first not in desk.first_s
    while desk.timed_step():
        pass
    assert sum(desk.slots.extended[began:]) == 500 + 3
    assert desk.ids(second) == ids_alone_of(second)


def ids_alone_of(sequence: Sequence) -> list[int]:
    """Return the tokens of its request where nothing else is."""
    return ids_alone(sequence.request, length=4096)
