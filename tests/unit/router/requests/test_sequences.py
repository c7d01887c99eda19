"""Which of the sequences that a node does not know were lost, and which never began."""

from __future__ import annotations

import pytest
from fleet_fakes import call
from replicas import replica

from capamesh.protocol.errors import SequenceLost, SequenceUnknown
from capamesh.protocol.ids import ModelName
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.router.requests.sequences import OpenSequences

M, N = ModelName("m"), ModelName("n")
UNKNOWN = SequenceUnknown("never heard of it")
HOME = replica("A")


def step(of: int | str, model: ModelName = M) -> InferCall:
    return call().replace(model=model, sequence=SequenceMark(of))


def lost(sequences: OpenSequences, *ids: int | str) -> list[bool]:
    return [isinstance(sequences.judged(step(each), UNKNOWN), SequenceLost) for each in ids]


def test_sequence_is_lost_only_between_its_first_answer_and_its_end() -> None:
    sequences = OpenSequences()
    assert sequences.judged(step(7), UNKNOWN) is UNKNOWN
    sequences.answered(M, SequenceMark(7, is_start=True), HOME)
    error = sequences.judged(step(7), UNKNOWN)
    assert isinstance(error, SequenceLost)
    assert error.message.startswith("sequence 7 of model 'm' was lost")
    assert sequences.judged(step(7, N), UNKNOWN) is UNKNOWN
    assert sequences.judged(call(), UNKNOWN) is UNKNOWN
    sequences.answered(M, SequenceMark(7, is_end=True), HOME)
    sequences.answered(M, SequenceMark(8, is_end=True), HOME)  # of one request alone
    assert lost(sequences, 7, 8) == [False, False]
    assert len(sequences) == 0


@pytest.mark.parametrize(
    ("answered", "known"), [("ab", "ab"), ("abc", "bc"), ("abac", "ac"), ("aab", "ab")]
)
def test_sequence_answered_longest_ago_is_forgotten_first(answered: str, known: str) -> None:
    sequences = OpenSequences(most=2)
    for each in answered:
        sequences.answered(M, SequenceMark(each), HOME)
    assert lost(sequences, *"abc") == [each in known for each in "abc"]
    assert len(sequences) == 2
