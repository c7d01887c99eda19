from __future__ import annotations

import dataclasses

import pytest
from fleet_fakes import device_offer, offer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.agent.announcement import TOO_LARGE, Announcement, NodeFacts
from capamesh.node.contract.messages import DeviceOffer
from capamesh.protocol.adverts import ModelState, Sequence, advert_to_body
from capamesh.protocol.ids import PeerId

FACTS = NodeFacts(PeerId("node"), "eu", 2.5, "0.1.0")
S = Sequence(5, 7)


def said(announcement: Announcement) -> list[str]:
    return [f"{one.name}/{one.version} {one.state}" for one in announcement.advert(S).models]


def test_announcement_that_differs_only_in_its_sequence_is_no_news() -> None:
    announcement = Announcement(FACTS)
    assert announcement.offered(0, device_offer("h:1"))
    assert not announcement.offered(0, device_offer("h:1"))
    assert announcement.offered(0, device_offer("h:9"))
    emptier = device_offer("h:9")
    device = dataclasses.replace(emptier.device, memory_free_bytes=7)
    assert not announcement.offered(0, dataclasses.replace(emptier, device=device))
    assert announcement.advert(S).devices[0].memory_free_bytes == 7  # and yet the next one says it
    assert announcement.lost(0, "killed")
    assert not announcement.lost(0, "killed")
    assert not announcement.lost(4, "killed")
    assert announcement.offered(0, device_offer("h:9"))


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        (ModelState.LOADING, ModelState.READY, "ready"),
        (ModelState.FAILED, ModelState.LOADING, "loading"),
        (ModelState.UNLOADING, ModelState.LOADING, "loading"),
        (ModelState.UNLOADED, ModelState.FAILED, "unloaded"),
        (ModelState.UNLOADED, ModelState.UNLOADING, "unloading"),
    ],
)
def test_model_on_two_devices_is_shown_in_its_more_useful_state(
    first: ModelState, second: ModelState, shown: str
) -> None:
    for states in ((first, second), (second, first)):
        announcement = Announcement(FACTS)
        for worker, state in enumerate(states):
            announcement.offered(worker, device_offer(models=[offer(state=state)]))
        assert said(announcement) == [f"m/1 {shown}"]


def test_models_of_a_lost_worker_are_loading_with_the_reason_until_it_offers_again() -> None:
    announcement = Announcement(FACTS)
    failed = offer("o", state=ModelState.FAILED, reason="no such operator")
    announcement.offered(0, device_offer("h:1", models=[offer("m"), offer("n"), failed]))
    announcement.offered(1, device_offer("h:2", models=[offer("m")]))
    assert announcement.lost(0, "killed by signal 9")
    assert said(announcement) == ["m/1 ready", "n/1 loading", "o/1 failed"]
    reasons = [one.reason for one in announcement.advert(S).models]
    assert reasons == ["", "its worker restarts: killed by signal 9", "no such operator"]
    assert announcement.workers == {1}
    assert announcement.offered(0, device_offer("h:3", models=[offer("n")]))
    assert said(announcement) == ["m/1 ready", "n/1 ready"]
    assert announcement.workers == {0, 1}


MODELS = st.dictionaries(st.sampled_from("mn"), st.sampled_from(ModelState))


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | MODELS), max_size=12))
def test_advert_is_taken_by_receivers_whatever_workers_say(
    steps: list[tuple[int, dict[str, ModelState] | None]],
) -> None:
    announcement = Announcement(FACTS)
    known: dict[int, DeviceOffer] = {}
    ever: dict[int, DeviceOffer] = {}
    for worker, models in steps:
        if models is None:
            assert announcement.lost(worker, "x") == (known.pop(worker, None) is not None)
        else:
            offers = [offer(name, state=state) for name, state in models.items()]
            reported = device_offer(f"h:{worker + 1}", models=offers)
            is_news = announcement.offered(worker, reported)
            assert is_news == (known.get(worker) != reported)
            known[worker] = ever[worker] = reported
    advert_to_body(announcement.advert(S))
    assert announcement.workers == set(known)
    again = Announcement(FACTS)
    for worker, reported in sorted(ever.items(), reverse=True):
        again.offered(worker, dataclasses.replace(reported))
        assert worker in known or again.lost(worker, "x")
    assert again.advert(S) == announcement.advert(S)


def test_advert_that_is_too_large_gives_up_the_model_with_the_most_tensors_first() -> None:
    announcement = Announcement(FACTS)
    wide = dataclasses.replace(offer("wide"), inputs=offer().inputs * 9)
    announcement.offered(0, device_offer("h:1", models=[offer("m"), wide]))
    given_up = announcement.give_up_largest()
    assert given_up == wide
    assert said(announcement) == ["m/1 ready", "wide/1 failed"]
    (_, shown) = announcement.advert(S).models
    assert (shown.reason, shown.inputs, shown.outputs) == (TOO_LARGE, (), ())
    announcement.offered(0, device_offer("h:1", models=[wide, offer("m")]))
    assert said(announcement) == ["m/1 ready", "wide/1 failed"]
    assert announcement.give_up_largest() == offer("m")
    assert announcement.give_up_largest() is None
    assert [one.reason for one in announcement.models_of(0)] == [TOO_LARGE, TOO_LARGE]
