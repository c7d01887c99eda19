from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from generation_fakes import VOCABULARY, Desk, FakeSlots, LetterText, ids_alone

from capamesh.node.generation import GenerationRequest, GenerationSettings, SamplingParameters
from capamesh.protocol.errors import (
    ContextExceeded,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RunFailed,
    TooLarge,
)

OTHERS_BIAS = SamplingParameters(logit_bias={32: 1.0})
GREEDY = SamplingParameters(temperature=0.0)


def request(length: int = 6, max_tokens: int = 5, first: int = 1, **more: Any) -> GenerationRequest:
    prompt = tuple((first + 7 * at) % VOCABULARY for at in range(length))
    return GenerationRequest(
        **{"prompt": prompt, "sampling": GREEDY, "max_tokens": max_tokens, **more}
    )


def test_prompt_beside_sequences_that_generate_is_run_in_chunks_between_their_steps() -> None:
    slots = FakeSlots(2, length=64)
    desk = Desk(slots, GenerationSettings(max_chunk=8, target_gap_s=0.025))
    desk.submit(request(4, max_tokens=20))
    desk.step()
    desk.submit(request(25, max_tokens=2, first=3))
    desk.run()
    kinds = "".join("d" if plan.is_decode else "f" for plan in desk.plans)
    assert kinds.startswith("fdfdfdfdfd")
    assert slots.extended == [4, 8, 8, 7, 2]  # and never a last chunk of one token


def test_deadline_ends_who_waits_who_fills_and_who_generates() -> None:
    desk = Desk(FakeSlots(2, length=64), GenerationSettings(max_chunk=4, target_gap_s=0.015))
    (generating,) = desk.submit(request(4, max_tokens=40, deadline_s=0.055))
    (filling,) = desk.submit(request(30, first=2, deadline_s=0.055))
    (waiting,) = desk.submit(request(first=3, deadline_s=0.055))
    desk.run()
    ends = [desk.finish(each) for each in (generating, filling, waiting)]
    assert ends == [DeadlineExceeded.code] * 3
    assert len(desk.ids(generating)) == 4
    assert desk.ids(filling) == desk.ids(waiting) == []
    assert desk.engine.load().tokens_in_flight == 0


def test_request_that_would_not_begin_before_its_deadline_is_refused_at_once() -> None:
    desk = Desk(FakeSlots(1), step_s=1.0)
    desk.submit(request(max_tokens=50))
    for _ in range(4):
        desk.step()
    with pytest.raises(Overloaded, match="the first token would come after about"):
        desk.submit(request(deadline_s=desk.now_s + 2.0))


def test_smaller_priority_numbers_go_first_and_stop_another_prompt_midway() -> None:
    slots = FakeSlots(1, length=64)
    desk = Desk(slots, GenerationSettings(max_chunk=16))
    (slow,) = desk.submit(request(50, priority=1, max_tokens=2))
    desk.step()
    (urgent,) = desk.submit(request(4, first=2, priority=0, max_tokens=2))
    desk.run()
    ended = [each.sequences[0] for each in desk.plans if each.wants_logits]
    assert ended.index(urgent) < ended.index(slow)
    assert desk.ids(slow) == ids_alone(request(50, max_tokens=2))
    assert slots.extended == [16, 4, 16, 16, 2]  # what had run was kept as a prefix


def test_tenants_take_turns_by_the_time_that_they_have_had() -> None:
    desk = Desk(FakeSlots(1))
    crowd = [desk.submit(request(first=at, tenant="crowd"))[0] for at in range(6)]
    desk.step()
    lone = [desk.submit(request(first=9 + at, tenant="lone"))[0] for at in range(2)]
    desk.run()
    order = [plan.sequences[0] for plan in desk.plans if not plan.is_decode]
    assert order == [crowd[0], lone[0], crowd[1], lone[1], *crowd[2:]]
    assert len(desk.engine._shares) == 0


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        (request(64), ContextExceeded, "length is 64 tokens.* it has 64: shorten"),
        (request(choices=5), InvalidRequest, "4 sequences at once"),
        (request(max_tokens=60, choices=4), TooLarge, "memory for 200"),
        (request(prompt=(1, 32)), InvalidRequest, "0 to 31"),
        (request(prompt=(-1, 2)), InvalidRequest, "0 to 31"),
        (request(sampling=OTHERS_BIAS), InvalidRequest, "logit_bias has token 32"),
    ],
)
def test_request_that_can_never_be_served_is_refused_as_such(
    asked: GenerationRequest, error: type[Exception], says: str
) -> None:
    desk = Desk(FakeSlots(), GenerationSettings(pool_tokens=200))
    with pytest.raises(error, match=says):
        desk.submit(asked)
    assert desk.engine.load().waiting == 0


def test_full_queue_of_one_tenant_leaves_room_for_others() -> None:
    desk = Desk(FakeSlots(1), GenerationSettings(max_waiting=3))
    crowd = [desk.submit(request(first=first, tenant="crowd"))[0] for first in range(3)]
    (lone,) = desk.submit(request(first=4, tenant="lone"))
    with pytest.raises(Overloaded):
        desk.submit(request(first=5, tenant="crowd"))
    desk.run()
    assert [desk.finish(each) for each in crowd] == ["length", "length", Overloaded.code]
    assert desk.finish(lone) == "length"


def test_people_go_before_bulk_whatever_the_priorities_and_bulk_takes_no_slot_of_others() -> None:
    desk = Desk(FakeSlots(1))
    (first,) = desk.submit(request(max_tokens=8, is_bulk=True, priority=9))
    desk.step()
    (bulk,) = desk.submit(request(first=2, is_bulk=True, priority=0))
    desk.step()
    assert desk.engine.load().preemptions == 0
    (person,) = desk.submit(request(first=3, priority=1000))
    desk.step()
    (other,) = desk.submit(request(first=4, priority=0))
    desk.run()
    assert desk.engine.load().preemptions == 1
    assert [desk.finish(each) for each in desk.told] == ["length"] * 4
    fills = [plan.sequences[0] for plan in desk.plans if not plan.is_decode]
    assert fills == [first, person, other, bulk]  # the first's prompt is kept, with its scores


def test_people_are_not_refused_for_what_bulk_has_still_to_do() -> None:
    desk = Desk(FakeSlots(1), step_s=1.0)
    (bulk,) = desk.submit(request(max_tokens=50, is_bulk=True))
    for _ in range(4):
        desk.step()
    desk.submit(request(max_tokens=40, first=2, is_bulk=True))
    assert desk.engine.load().first_token_s == 0.0
    with pytest.raises(Overloaded, match="the first token would come after about"):
        desk.submit(request(first=3, is_bulk=True, deadline_s=desk.now_s + 4.0))
    (person,) = desk.submit(request(first=4, max_tokens=2, deadline_s=desk.now_s + 4.0))
    desk.run()
    assert (desk.finish(person), desk.finish(bulk)) == ("length", "length")


def test_callers_of_one_prompt_who_come_at_once_begin_with_the_first_of_them() -> None:
    slots = FakeSlots(4)
    desk = Desk(slots)
    asked = request(40, max_tokens=8)
    drawn = dataclasses.replace(asked, sampling=SamplingParameters(seed=5), choices=2)
    sequences = [*desk.submit(asked), *desk.submit(asked), *desk.submit(drawn)]
    desk.run()
    assert slots.extended == [40]
    assert slots.decoded_rows == [4] * 7
    alone = ids_alone(asked)
    expected = [alone, alone, ids_alone(drawn), ids_alone(drawn, 1)]
    assert [desk.ids(each) for each in sequences] == expected


def test_repeated_prompts_with_an_answer_of_one_token_need_no_run_at_all() -> None:
    slots = FakeSlots(1)
    desk = Desk(slots)
    desk.submit(request(40, max_tokens=1))
    desk.run()
    again = [desk.submit(request(40, max_tokens=1))[0] for _ in range(3)]
    assert not desk.step()
    assert [desk.ids(each) for each in again] == [ids_alone(request(40, max_tokens=1))] * 3
    assert (slots.extended, slots.decoded_rows) == ([40], [])
    assert desk.engine.load().free_slots == 1


def test_tenants_share_no_prefixes() -> None:
    slots = FakeSlots(2)
    desk = Desk(slots)
    for tenant in ("one", "other"):
        desk.submit(request(40, tenant=tenant))
        desk.submit(request(40, tenant=tenant))
    desk.run()
    assert slots.extended == [40, 40]


@pytest.mark.parametrize("most_replayed", [0, 3, 32])
def test_resumed_answer_says_only_what_is_new(most_replayed: int) -> None:
    asked = request(7, max_tokens=10, sampling=SamplingParameters(seed=3))
    ids = ids_alone(asked)
    slots = FakeSlots()
    slots.most_replayed = most_replayed
    desk = Desk(slots)
    resumed = dataclasses.replace(asked, resumed=tuple(ids[:4]))
    (sequence,) = desk.submit(resumed)
    desk.run()
    assert desk.ids(sequence) == ids[4:]
    assert slots.replayed == {0: [], 3: [3, 1], 32: [4]}[most_replayed]
    assert len(slots.decoded_rows) == {0: 9}.get(most_replayed, 5)
    assert desk.told[sequence][-1].usage.completion == 10
    with pytest.raises(InvalidRequest, match="nothing left"):
        desk.submit(request(resumed=(3, 4), stop_tokens=frozenset([4])))


@pytest.mark.parametrize(
    ("step_s", "kinds"),
    [(0.01, "ffrrrrrrd"), (0.4, "ffrrdrrrdrd")],
    ids=["soon", "within a second"],
)
def test_answers_that_go_on_together_replay_together_before_any_decodes(
    step_s: float, kinds: str
) -> None:
    slots = FakeSlots(length=96)
    slots.most_replayed = 8
    desk = Desk(slots, step_s=step_s)
    asked = [request(7, max_tokens=50, first=at) for at in (1, 2)]
    alone = [ids_alone(each) for each in asked]
    had = (8, 40)
    for each, ids, count in zip(asked, alone, had, strict=True):
        desk.submit(dataclasses.replace(each, resumed=tuple(ids[:count])))
    desk.run()
    seen = "".join("d" if p.is_decode else "r" if p.replays else "f" for p in desk.plans)
    assert seen.startswith(kinds)
    assert slots.replayed == [8] * 6
    for told, ids, count in zip(desk.told, alone, had, strict=True):
        assert desk.ids(told) == ids[count:]


def test_failed_run_ends_those_it_was_for_and_the_engine_goes_on() -> None:
    slots = FakeSlots(2)
    desk = Desk(slots)
    sequences = [desk.submit(request(first=first))[0] for first in range(2)]
    for _ in range(4):
        desk.step()
    plan = desk.engine.plan(desk.now_s)
    assert plan.is_decode
    desk.engine.failed(plan, RunFailed("the device is gone"))
    desk.run()
    assert [desk.finish(each) for each in sequences] == [RunFailed.code] * 2
    (after,) = desk.submit(request(first=0))
    desk.run()
    assert desk.ids(after) == ids_alone(request(first=0))


def test_broken_tokenizer_ends_one_answer_and_not_all() -> None:
    class Broken(LetterText):
        def push(self, token: int) -> str:
            raise ValueError(f"no text for {token}")

    desk = Desk(FakeSlots())
    (broken,) = desk.submit(request(first=1), Broken)
    (whole,) = desk.submit(request(first=2))
    desk.run()
    assert desk.finish(broken) == RunFailed.code
    assert desk.ids(whole) == ids_alone(request(first=2))


def test_nothing_ends_an_answer_before_its_least_tokens() -> None:
    alone = ids_alone(request(max_tokens=12))
    ends = {"stop_tokens": frozenset([alone[1], VOCABULARY + 5])}
    letters = "".join(map(LetterText().push, alone))
    texts = {"stop_strings": (letters[1],)}
    for least, end in ((0, ends), (6, ends), (0, texts), (6, texts)):
        desk = Desk(FakeSlots())
        (sequence,) = desk.submit(request(max_tokens=12, min_tokens=least, **end))
        desk.run()
        assert len(desk.ids(sequence)) >= max(2, least)
        if end is ends:
            assert not set(desk.ids(sequence)[:least]) & ends["stop_tokens"]
        elif least:
            assert desk.text(sequence).startswith(letters[: least - 1])


def test_answer_keeps_the_text_that_ends_it_where_that_is_asked_for() -> None:
    letters = "".join(map(LetterText().push, ids_alone(request(max_tokens=6))))
    stop = letters[2:4]
    ended = letters[: letters.index(stop)]
    for keeps, text in ((False, ended), (True, ended + stop)):
        desk = Desk(FakeSlots())
        (sequence,) = desk.submit(request(max_tokens=6, stop_strings=(stop,), keeps_stop=keeps))
        desk.run()
        assert (desk.text(sequence), desk.finish(sequence)) == (text, "stop")
