from __future__ import annotations

import random

import numpy as np
import pytest
from generation_fakes import VOCABULARY, Desk, FakeSlots, LetterText
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from capamesh.node.generation import (
    Constraint,
    GenerationRequest,
    GenerationSettings,
    SamplingParameters,
    TokenPart,
    TokenText,
)
from capamesh.node.generation.lookup import Lookup
from capamesh.node.generation.stops import StopStrings

GREEDY = SamplingParameters(temperature=0.0)
CIRCLE = (0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2)
"""A prompt of which all that follows is guessed."""
ALWAYS = 50.0
"""The habit of a model that goes on in the circle whatever comes."""


class PairText(LetterText):
    """Letters that are whole with every second token alone, as characters of two tokens are."""

    _held = ""

    @override
    def push(self, token: int) -> str:
        text = self._held + super().push(token)
        self._held = "" if len(text) == 2 else text
        return text if len(text) == 2 else ""

    @override
    def flush(self) -> str:
        return self._held


class Anything(Constraint):
    """A grammar that all tokens follow."""

    @override
    def prepare(self) -> None: ...

    @override
    def mask(self) -> np.ndarray:
        return np.ones(VOCABULARY, bool)

    @override
    def accept(self, token: int) -> None: ...

    @property
    @override
    def is_complete(self) -> bool:
        return False


def desk_of(
    lookup_tokens: int, count: int = 4, habit: float = ALWAYS, pool_tokens: int = 0
) -> Desk:
    slots = FakeSlots(count)
    slots.habit = habit
    return Desk(slots, GenerationSettings(pool_tokens, lookup_tokens=lookup_tokens))


def plain(part: TokenPart) -> tuple[object, ...]:
    """Return what a part says, as values that are equal if it says the same."""
    return (
        part.ids,
        part.text,
        part.logprobs and [(each.token, each.logprob, each.top) for each in part.logprobs],
        part.finish,
        part.usage and (part.usage.prompt, part.usage.completion),
    )


def random_request(rng: random.Random) -> GenerationRequest:
    sampling = SamplingParameters(
        temperature=rng.choice([0.0, 0.7]),
        top_p=rng.choice([1.0, 0.9]),
        seed=rng.randrange(9),
        frequency_penalty=rng.choice([0.0, 0.2]),
        logprobs=rng.choice([-1, 0, 3]),
    )
    return GenerationRequest(
        tuple(rng.randrange(5) for _ in range(rng.randint(1, 20))),
        rng.randint(1, 60),
        sampling,
        stop_tokens=frozenset(rng.sample(range(VOCABULARY), 1)),
        stop_strings=rng.choice([(), ("cdea",), ("dd", "fab")]),
    )


@pytest.mark.full
@pytest.mark.seeds
@pytest.mark.parametrize("text", [LetterText, PairText])
def test_guessed_answers_are_those_of_plain_decoding(text: type[TokenText]) -> None:
    rng = random.Random(text.__name__)
    accepted = 0
    ends: set[str | None] = set()
    for _ in range(200):
        request = random_request(rng)
        told = []
        for lookup_tokens in (0, rng.randint(1, 15)):
            desk = desk_of(lookup_tokens, habit=7.0)
            desk.slots.rounds = False
            (sequence,) = desk.submit(request, text)
            desk.run()
            told.append([plain(part) for part in desk.told[sequence]])
            accepted += desk.engine.load().accepted_tokens
            ends.add(desk.finish(sequence))
        assert told[0] == told[1]
    assert accepted > 500
    assert ends == {"stop", "length"}


def test_all_that_is_guessed_comes_of_one_run() -> None:
    desk = desk_of(8)
    (sequence,) = desk.submit(GenerationRequest(CIRCLE, 20, GREEDY))
    desk.run()
    assert desk.ids(sequence) == [at % 4 for at in range(3, 23)]
    # the first token is the prompt's; there are 19 more, of which a run gives as many as it has tokens
    assert desk.slots.scored == [5, 5, 5, 4]
    assert desk.slots.decoded_rows == []
    load = desk.engine.load()
    assert (load.drafted_tokens, load.accepted_tokens) == (15, 15)


def test_end_within_a_draft_ends_the_answer() -> None:
    desk = desk_of(5)
    stopped = desk.submit(GenerationRequest(CIRCLE, 20, GREEDY, stop_tokens=frozenset([1])))[0]
    cut = desk.submit(GenerationRequest(CIRCLE, 20, GREEDY, stop_strings=("bc",)))[0]
    desk.run()
    assert (desk.ids(stopped), desk.finish(stopped)) == ([3, 0, 1], "stop")
    assert (desk.text(cut), desk.finish(cut)) == ("da", "stop")
    assert desk.engine.load().tokens_in_flight == 0


def test_no_token_is_guessed_under_a_grammar_or_without_scores_of_each() -> None:
    desk = desk_of(4)
    request = GenerationRequest(CIRCLE, 8, GREEDY)
    desk.told[desk.engine.submit(request, 0.0, LetterText, Anything)[0]] = []
    desk.run()
    assert desk.engine.load().drafted_tokens == 0
    slots = FakeSlots()
    slots.habit, slots.scores_each = ALWAYS, False
    desk = Desk(slots, GenerationSettings(lookup_tokens=4))
    desk.submit(request)
    desk.run()
    assert slots.scored == []


@given(
    pieces=st.lists(st.text("ab\n", max_size=4), max_size=20),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
def test_text_goes_out_up_to_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    mine = StopStrings(stops)
    out, is_stopped = "", False
    for piece in pieces:
        text, is_stopped = mine.push(piece)
        out += text
        if is_stopped:
            break
    else:
        out += mine.flush()
    whole = "".join(pieces)
    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert is_stopped == bool(ends)
    if not ends:
        assert out == whole
    else:  # of stops that begin one another, the one that is complete first counts
        assert whole.startswith(out)
        assert not any(stop in out for stop in stops)
        assert any(whole.startswith(stop, len(out)) for stop in stops)


def test_text_that_cannot_become_a_stop_is_not_held_back() -> None:
    stops = StopStrings(["</end>"])
    assert stops.push("a <") == ("a ", False)
    assert stops.push("/b") == ("</b", False)
    assert stops.push("</e") == ("", False)
    assert stops.push("nd> more") == ("", True)


def test_guesses_are_those_of_a_plain_search() -> None:
    rng = random.Random(0)
    found = 0
    for _ in range(300):
        tokens = [rng.randrange(2) for _ in range(rng.randint(2, 60))]
        count = rng.randint(1, len(tokens) - 1)
        lookup = Lookup(tokens[:count], 80)
        draft = lookup.draft(tokens[count:], len(tokens) - count - 1, 5)
        assert draft == plain_search(tokens, 5)
        found += len(draft)
    assert found > 300


def plain_search(tokens: list[int], most: int) -> list[int]:
    for match in range(min(32, len(tokens) - 1), 4, -1):
        for end in range(len(tokens) - 1, match - 1, -1):
            if tokens[end - match : end] == tokens[-match:]:
                return tokens[end : end + min(most, 2 * match - 2)]
    return []
