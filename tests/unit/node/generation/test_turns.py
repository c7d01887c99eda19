"""Prompts that take turns, in virtual time: a token of a prompt takes 1 ms, a step of those who generate 8 ms and 1 ms for each."""

from __future__ import annotations

import pytest
from generation_fakes import VOCABULARY, Desk, FakeSlots, ids_alone
from typing_extensions import override

from capamesh.node.generation import GenerationRequest, SamplingParameters
from capamesh.node.generation.pace import Pace
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

    slots: FakeSlots

    def __init__(self, generating: int = 0) -> None:
        """Let so many generate, and the times of runs be known."""
        super().__init__(FakeSlots(8, length=4096))
        self.came_s: dict[Sequence, float] = {}
        self.first_s: dict[Sequence, float] = {}
        """The seconds from a request to its first token."""
        self.ask(request(31, 600, 2))
        self.run()
        for first in range(generating):
            self.ask(request(first + 20, 20, 3000))
        self.run_until(lambda: self.engine.load().generating == generating)

    def ask(self, asked: GenerationRequest) -> Sequence:
        (made,) = self.submit(asked)
        self.came_s[made] = self.now_s
        return made

    @override
    def step(self) -> bool:
        plan = self.engine.plan(self.now_s)
        if plan is not None:
            took_s = (8 * plan.is_decode + len(plan.tokens)) / 1e3
            logits = plan.run(self.slots)
            self.now_s += took_s
            self.engine.stepped(plan, logits, self.now_s, took_s)
        for each in self.engine.take_parts():
            self.told[each.sequence].append(each.part)
            self.first_s.setdefault(each.sequence, self.now_s - self.came_s[each.sequence])
        return plan is not None


def first_tokens(generating: int, *, is_long: bool, shorts: int) -> tuple[list[float], float]:
    """Return the seconds to the first tokens of short prompts, and to that of the long one before them."""
    desk = TimedDesk(generating)
    came_s = desk.now_s
    waited: list[Sequence] = []
    if is_long:
        came_s += CAME_S
        waited.append(desk.ask(request(1, LONG, 2)))
        desk.run_until(lambda: desk.now_s >= came_s)
    for at in range(shorts):
        waited.append(desk.ask(request(at + 3, SHORT, 24)))
        desk.came_s[waited[-1]] = came_s  # it came while a piece ran
    desk.run_until(lambda: all(each in desk.first_s for each in waited))
    times = [desk.first_s[each] for each in waited]
    return times[is_long:], times[0]


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
    long = desk.ask(request(1, LONG, 1))
    began_s, number = desk.now_s, 0
    while long not in desk.first_s:
        while desk.engine.load().filling + desk.engine.load().waiting < 4:
            number += 1
            prompt = tuple((number // VOCABULARY**at) % VOCABULARY for at in range(SHORT))
            desk.ask(GenerationRequest(prompt[::-1], 1, GREEDY))
        desk.step()
    assert desk.now_s - began_s < 4 * LONG / 1e3


def test_prompt_waits_for_the_beginning_that_another_is_running_and_not_for_the_rest() -> None:
    desk = TimedDesk()
    shared = request(1, 200, 1).prompt
    first = desk.ask(GenerationRequest((*shared, *(300 * [5])), 1, GREEDY))
    second = desk.ask(GenerationRequest((*shared, 31, 30, 29), 1, GREEDY))
    began = len(desk.slots.extended)
    desk.run_until(lambda: second in desk.first_s)
    assert first not in desk.first_s
    desk.run()
    assert sum(desk.slots.extended[began:]) == 500 + 3
    assert desk.ids(second) == ids_alone(second.request, length=4096)


# how much of a prompt is run at once


@pytest.mark.parametrize("max_chunk", [4, 5, 16, 33, 65, 512])
def test_no_run_has_one_token_more_than_tiles_and_none_leaves_one(max_chunk: int) -> None:
    for is_alone in (True, False):
        pace = Pace(0.08, max_chunk)
        for length in range(2, 700):
            left = length
            while left:
                count = pace.chunk(left, is_alone=is_alone)
                assert 2 <= count <= max(max_chunk, 3)
                assert count % 32 != 1
                left -= count
                assert left != 1


def test_chunks_grow_only_as_far_as_was_measured_to_keep_the_gap() -> None:
    pace = Pace(0.08, 512)
    assert pace.chunk(400, is_alone=False) == 32
    pace.decoded(4, 0.013, 0.013)
    pace.filled(512, 0.66)  # a large chunk costs less a token: it says nothing good of small ones
    assert pace.chunk(400, is_alone=False) == 32
    pace.filled(32, 0.064)
    assert pace.chunk(400, is_alone=False) == 32
    pace.filled(32, 0.2)
    assert pace.chunk(400, is_alone=False) == 16
    quick = Pace(0.08, 512)
    quick.decoded(4, 0.01, 0.01)
    assert quick.chunk(1000, is_alone=False) == 32
    quick.filled(32, 32 * 0.0002)  # larger ones cost no more a token
    assert quick.chunk(1000, is_alone=False) == 256


def test_size_that_was_once_too_slow_is_tried_again_after_quick_chunks_of_a_smaller_one() -> None:
    pace = Pace(0.08, 512)
    pace.decoded(4, 0.013, 0.013)
    pace.filled(64, 0.09)  # the first run of all
    sizes: list[int] = []
    for _ in range(12):
        size = pace.chunk(400, is_alone=False)
        pace.filled(size, size * 0.0006)
        sizes.append(size)
    assert sizes == [32] * 6 + [64] * 6
    pace.filled(64, 0.09)  # it is slower indeed
    assert pace.chunk(400, is_alone=False) == 32
