"""Which of the sequences that a node does not know were lost, and which never began."""

from __future__ import annotations

import pytest
from fleet_fakes import Ask, Fleet, call, echo, failing
from replicas import replica

from capamesh.protocol.errors import SequenceLost, SequenceUnknown
from capamesh.protocol.ids import ModelName
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.router.fleet.replica import Replica
from capamesh.router.requests.call import NO_OPTIONS
from capamesh.router.requests.sequences import OpenSequences

HOME = replica("A")


@pytest.mark.parametrize(
    ("answered", "known"), [("ab", "ab"), ("abc", "bc"), ("abac", "ac"), ("aab", "ab")]
)
def test_sequence_answered_longest_ago_is_forgotten_first(answered: str, known: str) -> None:
    sequences, unknown = OpenSequences(most=2), SequenceUnknown("never heard of it")
    for each in answered:
        sequences.answered(ModelName("m"), SequenceMark(each), HOME)
    for each in "abc":
        asked = call().replace(sequence=SequenceMark(each))
        assert (sequences.judged(asked, unknown) is unknown) is (each not in known)
    assert len(sequences) == 2


IDS = range(40)


class Remembering:
    """A node that knows the sequences that have begun there."""

    def __init__(self) -> None:
        self.known: set[int | str] = set()

    def __call__(self, ask: Ask) -> None:
        mark = ask.call.sequence
        assert mark is not None
        if mark.is_start:
            self.known.add(mark.id)
        if mark.id in self.known:
            echo(ask)
        else:
            failing(SequenceUnknown("it has not started here"))(ask)


async def send(fleet: Fleet, of: int, *, version: str = "", **mark: bool) -> str:
    """Return who answers a request of a sequence."""
    asked = call("m", version).replace(sequence=SequenceMark(of, **mark))
    outcome = await fleet.infer(asked, NO_OPTIONS, fleet.clock() + 30.0)
    return str(outcome.peer)


async def begun(fleet: Fleet, of: int) -> str:
    return await send(fleet, of, is_start=True)


def silence(replica: Replica, now_s: float) -> None:
    replica.health.failed(now_s, is_hard=True, cause="silent for 60 ms")


def link_lost(replica: Replica, now_s: float) -> None:
    replica.endpoint.health.failed(now_s, is_hard=True, cause="link_lost")


def outlier(replica: Replica, now_s: float) -> None:
    replica.health.eject(now_s)


@pytest.mark.parametrize("harm", [silence, link_lost, outlier])
async def test_node_that_is_avoided_keeps_its_sequences(harm: object) -> None:
    fleet = Fleet([Remembering()], [Remembering()])
    homes = {of: await begun(fleet, of) for of in IDS}
    assert set(homes.values()) == {"A", "B"}
    for one in fleet.replicas:
        if one.endpoint.peer == "A":
            harm(one, fleet.clock())  # type: ignore[operator]
    assert {of: await send(fleet, of) for of in IDS} == homes
    assert await begun(fleet, 99) == "B"


async def test_sequence_whose_node_has_no_link_is_lost_and_begins_elsewhere() -> None:
    fleet = Fleet([Remembering()], [Remembering()])
    homes = {of: await begun(fleet, of) for of in IDS}
    of = next(of for of, home in homes.items() if home == "A")
    fleet.links[0].end()
    with pytest.raises(SequenceLost):
        await send(fleet, of)
    assert (await begun(fleet, of), await send(fleet, of)) == ("B", "B")
