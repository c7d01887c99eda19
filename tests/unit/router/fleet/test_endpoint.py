from __future__ import annotations

from fleet_fakes import FakeLink

from capamesh.protocol.ids import PeerId
from capamesh.router.fleet.endpoint import Endpoint


def fresh() -> Endpoint:
    return Endpoint(PeerId("peer-abcdef"), "10.0.0.1:7000")


def test_endpoint_is_usable_only_with_a_usable_link_and_neither_draining_nor_retired() -> None:
    endpoint = fresh()
    assert not endpoint.is_usable
    link = FakeLink()
    endpoint.link = link  # type: ignore[assignment]
    assert endpoint.is_usable
    link.is_usable = False
    assert not endpoint.is_usable
    link.is_usable = True
    endpoint.is_draining = True
    assert not endpoint.is_usable
    endpoint.is_draining = False
    endpoint.is_suspected = True
    assert endpoint.is_usable
    endpoint.retire(lambda: None)
    assert not endpoint.is_usable


def test_each_request_is_counted_from_its_begin_to_its_end() -> None:
    endpoint = fresh()
    endpoint.rif += 1
    endpoint.rif += 1
    assert endpoint.rif == 2
    endpoint.ended()
    assert endpoint.rif == 1
    endpoint.ended()
    assert endpoint.rif == 0


def test_idle_endpoint_retires_at_once_and_a_busy_one_after_its_last_request_once() -> None:
    reported: list[str] = []
    idle, busy = fresh(), fresh()
    idle.retire(lambda: reported.append("idle"))
    assert reported == ["idle"]
    busy.rif += 1
    busy.rif += 1
    busy.retire(lambda: reported.append("busy"))
    busy.ended()
    assert reported == ["idle"]
    assert busy.rif == 1
    busy.ended()
    assert reported == ["idle", "busy"]
    busy.rif += 1
    busy.ended()
    assert reported == ["idle", "busy"]


def test_text_form_says_who_and_how_busy() -> None:
    assert repr(fresh()) == "Endpoint(abcdef at 10.0.0.1:7000, 0 in flight)"
