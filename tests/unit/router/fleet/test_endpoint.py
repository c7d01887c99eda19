from __future__ import annotations

from fleet_fakes import FakeLink

from capamesh.protocol.ids import PeerId
from capamesh.router.fleet.endpoint import Candidate


def fresh() -> Candidate:
    return Candidate(PeerId("peer-abcdef"), "10.0.0.1:7000")


def test_a_candidate_is_usable_only_with_a_usable_link_and_neither_draining_nor_retired() -> None:
    candidate = fresh()
    assert not candidate.is_usable
    link = FakeLink()
    candidate.link = link  # type: ignore[assignment]
    assert candidate.is_usable
    link.is_usable = False
    assert not candidate.is_usable
    link.is_usable = True
    candidate.is_draining = True
    assert not candidate.is_usable
    candidate.is_draining = False
    candidate.is_suspected = True
    assert candidate.is_usable
    candidate.retire(lambda: None)
    assert not candidate.is_usable


def test_each_request_is_counted_from_its_begin_to_its_end() -> None:
    candidate = fresh()
    candidate.began()
    candidate.began()
    assert candidate.rif == 2
    candidate.ended()
    assert candidate.rif == 1
    candidate.ended()
    assert candidate.rif == 0


def test_an_idle_candidate_retires_at_once_and_a_busy_one_after_its_last_request_once() -> None:
    told: list[str] = []
    idle, busy = fresh(), fresh()
    idle.retire(lambda: told.append("idle"))
    assert told == ["idle"]
    busy.began()
    busy.began()
    busy.retire(lambda: told.append("busy"))
    busy.ended()
    assert told == ["idle"]
    assert busy.rif == 1
    busy.ended()
    assert told == ["idle", "busy"]
    busy.began()
    busy.ended()
    assert told == ["idle", "busy"]


def test_the_text_form_says_who_and_how_busy() -> None:
    assert repr(fresh()) == "Candidate(abcdef at 10.0.0.1:7000, 0 in flight)"
