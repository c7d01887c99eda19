from __future__ import annotations

import dataclasses
import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

import pytest
from fleet_fakes import advert, offer
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.adverts import ModelState, NodeAdvert
from capamesh.protocol.fleet import Changed, Joined, Left, LeftReason, Recovered, Suspected
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.steps import run_through
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.replica import Replica
from capamesh.router.fleet.view import FleetView

M = ModelName("m")
ANY = ModelVersion("")


class Seen:
    """A view, and what it said must be dialled and let go."""

    def __init__(self) -> None:
        self.new: list[Endpoint] = []
        self.gone: list[Endpoint] = []
        self.view = FleetView(on_new=self.new.append, on_gone=self.gone.append)

    def joined(self, *adverts: NodeAdvert) -> None:
        self.view.apply([Joined(one) for one in adverts])

    def replicas(self, model: str = "m", version: str = "") -> list[str]:
        found = self.view.replicas(ModelName(model), ModelVersion(version))
        return [f"{replica.endpoint.peer}@{replica.endpoint.address}" for replica in found]

    def replica(self, address: str, version: str = "") -> Replica:
        found = self.view.replicas(M, ModelVersion(version))
        return next(replica for replica in found if replica.endpoint.address == address)


def left(peer: str) -> Left:
    return Left(PeerId(peer), LeftReason.GOODBYE)


def test_node_is_a_endpoint_for_each_of_its_addresses_until_it_leaves() -> None:
    seen = Seen()
    seen.joined(advert("A", "a:1", "a:2"), advert("B", "b:1"))
    assert seen.replicas() == ["A@a:1", "A@a:2", "B@b:1"]
    assert [endpoint.address for endpoint in seen.new] == ["a:1", "a:2", "b:1"]
    seen.view.apply([left("A")])
    assert seen.replicas() == ["B@b:1"]
    assert [endpoint.address for endpoint in seen.gone] == ["a:1", "a:2"]
    assert repr(seen.view) == "FleetView(1 nodes, 1 models)"


def test_change_of_addresses_keeps_the_endpoints_that_stay() -> None:
    seen = Seen()
    before = advert("A", "a:1", "a:2")
    seen.joined(before)
    kept = seen.new[1]
    seen.view.apply([Changed(advert("A", "a:2", "a:3", counter=2), before)])
    assert seen.view.endpoints_of(PeerId("A"))[0] is kept
    assert seen.replicas() == ["A@a:2", "A@a:3"]
    assert [endpoint.address for endpoint in seen.gone] == ["a:1"]


def test_newest_version_is_the_largest_number_not_the_last_text() -> None:
    seen = Seen()
    seen.joined(
        advert("A", "a:1", models=[offer(version="9")]),
        advert("B", "b:1", models=[offer(version="10")]),
    )
    assert seen.replicas() == ["B@b:1"]
    assert seen.replicas(version="9") == ["A@a:1"]
    assert seen.replicas(version="3") == []
    assert seen.view.versions(M) == ["9", "10"]
    found = seen.view.offer(M, ANY)
    assert found is not None
    assert found.version == "10"
    seen.view.apply([left("B")])
    assert seen.replicas() == ["A@a:1"]


@pytest.mark.parametrize("state", [ModelState.LOADING, ModelState.FAILED, ModelState.UNLOADING])
def test_model_that_is_not_ready_is_listed_but_gets_nothing(state: ModelState) -> None:
    seen = Seen()
    seen.joined(advert("A", "a:1", models=[offer(state=state)]))
    assert seen.replicas() == []
    assert seen.view.models() == []
    assert seen.view.offer(M, ANY) is None
    assert [one.state for one in run_through(seen.view.offers())] == [state]
    seen.joined(advert("B", "b:1"))
    assert [one.state for one in run_through(seen.view.offers())] == [ModelState.READY]
    assert seen.replicas() == ["B@b:1"]


def test_visitor_replicas_what_its_advert_says_whichever_comes_first() -> None:
    for advert_first in (True, False):
        seen = Seen()
        visitor = Endpoint(PeerId("A"), "dialled-in-1")
        reported = advert("A", is_draining=True)
        if advert_first:
            seen.joined(reported)
        seen.view.visit(visitor)
        if not advert_first:
            assert seen.replicas() == []
            seen.joined(reported)
        assert seen.replicas() == ["A@dialled-in-1"]
        assert visitor.is_draining
        seen.view.leave(visitor)
        seen.view.leave(visitor)
        assert seen.replicas() == []
        assert seen.new == seen.gone == []


def test_node_that_dials_is_unreached_while_it_has_not_dialled_and_takes_requests() -> None:
    seen = Seen()
    v1, visitor = ModelVersion("1"), Endpoint(PeerId("V"), "dialled-in-1")
    seen.joined(advert("A", "a:1"))
    assert not seen.view.has_unreached(M, v1)
    seen.joined(advert("V"))
    assert seen.view.has_unreached(M, v1)
    assert not seen.view.has_unreached(M, ModelVersion("2"))
    seen.view.visit(visitor)
    assert not seen.view.has_unreached(M, v1)
    seen.view.leave(visitor)
    assert seen.view.has_unreached(M, v1)
    seen.view.apply([Changed(advert("V", is_draining=True, counter=2), advert("V"))])
    assert not seen.view.has_unreached(M, v1)


def test_draining_is_taken_over_and_taken_back() -> None:
    seen = Seen()
    seen.joined(advert("A", "a:1"))
    (endpoint,) = seen.new
    before = advert("A", "a:1")
    seen.view.apply([Changed(advert("A", "a:1", is_draining=True, counter=2), before)])
    assert endpoint.is_draining
    seen.view.apply([Changed(advert("A", "a:1", counter=3), before)])
    assert not endpoint.is_draining


def test_suspicion_ends_with_recovery_and_does_not_outlive_the_membership() -> None:
    seen = Seen()
    visitor = Endpoint(PeerId("A"), "dialled-in-1")
    seen.joined(advert("A", "a:1"))
    seen.view.visit(visitor)
    seen.view.apply([Suspected(PeerId("A"))])
    assert [endpoint.is_suspected for endpoint in seen.view.endpoints()] == [True, True]
    seen.view.apply([Recovered(PeerId("A"))])
    assert [endpoint.is_suspected for endpoint in seen.view.endpoints()] == [False, False]
    seen.view.apply([Suspected(PeerId("A")), left("A")])
    seen.joined(advert("A", "a:1", counter=9))
    assert [endpoint.is_suspected for endpoint in seen.view.endpoints()] == [False, False]


def test_replica_is_the_same_for_as_long_as_that_endpoint_replicas_that_version() -> None:
    seen = Seen()
    before = advert("A", "a:1", "a:2")
    seen.joined(before, advert("B", "b:1"))
    kept, lost = seen.replica("a:1"), seen.replica("a:2")
    kept.rif = 3
    faster = dataclasses.replace(offer(), row_us=70)
    after = advert("A", "a:1", models=[faster], counter=2)
    seen.view.apply([Changed(after, before)])
    assert seen.replica("a:1") is kept
    assert (kept.rif, kept.offer, kept.advert) == (3, faster, after)
    assert (kept.is_gone, lost.is_gone) == (False, True)
    assert seen.view.replicas_at(kept.endpoint) == [kept]
    assert seen.view.replicas_at(lost.endpoint) == []
    unloaded = advert("A", "a:1", models=[offer(version="2")], counter=3)
    seen.view.apply([Changed(unloaded, after)])
    assert kept.is_gone
    seen.view.apply([Changed(after, unloaded)])
    assert seen.replica("a:1") is not kept


def test_version_is_the_same_while_it_is_held_though_no_node_has_it_meanwhile() -> None:
    seen = Seen()
    seen.joined(advert("A", "a:1"))
    hosted = seen.view.hosted(M, ModelVersion("1"))
    assert [replica.endpoint.peer for replica in hosted.replicas] == ["A"]
    seen.view.apply([left("A")])
    assert (hosted.replicas, seen.view.rankings) == ((), {})
    seen.joined(advert("B", "b:1"))
    assert [replica.endpoint.peer for replica in hosted.replicas] == ["B"]
    assert seen.view.hosted(M, ModelVersion("1")) is hosted


def test_latency_to_expect_is_as_last_told_or_else_as_advertised() -> None:
    seen = Seen()
    seen.joined(advert("A", "a:1", models=(dataclasses.replace(offer(), row_us=500),)))
    replica = seen.replica("a:1")
    assert replica.service_s == 0.0005
    seen.joined(advert("A", "a:1", models=(dataclasses.replace(offer(), row_us=700),)))
    assert replica.service_s == 0.0007
    replica.reported(LoadReport(queue_us=100, run_us=200), 1.0)
    assert replica.service_s == 0.0003
    replica.reported(LoadReport(queue_us=100, run_us=200, latency_us=400), 1.0)
    assert replica.service_s == 0.0004
    seen.joined(advert("A", "a:1", models=(dataclasses.replace(offer(), row_us=900),)))
    assert replica.service_s == 0.0004


def test_tuple_of_replicas_is_the_same_until_one_comes_or_goes() -> None:
    seen = Seen()
    both = [offer("m"), offer("n")]
    first = advert("A", "a:1", models=both)
    seen.joined(first, advert("B", "b:1", models=both))
    of_m, of_n = (seen.view.replicas(ModelName(name), ANY) for name in "mn")
    again = advert("A", "a:1", models=both, is_draining=True, counter=2)
    seen.view.apply([Changed(again, first), Suspected(PeerId("A")), Recovered(PeerId("A"))])
    assert seen.view.replicas(M, ANY) is of_m
    assert seen.view.replicas(ModelName("n"), ANY) is of_n
    seen.view.apply([Changed(advert("A", "a:1", models=[offer("n")], counter=3), again)])
    assert seen.view.replicas(M, ANY) == of_m[1:]
    assert seen.view.replicas(ModelName("n"), ANY) is of_n
    visitor = Endpoint(PeerId("B"), "dialled-in-1")
    seen.view.visit(visitor)
    assert [replica.endpoint for replica in seen.view.replicas(M, ANY)[1:]] == [visitor]
    replica = seen.view.replicas(M, ANY)[1]
    seen.view.leave(visitor)
    assert replica.is_gone
    assert seen.view.replicas(M, ANY) == of_m[1:]


def cost_of(act: Callable[[], object]) -> tuple[int, int]:
    """Return how many calls something makes, and the most bytes that it takes meanwhile.

    No garbage is looked for meanwhile: what it finds may call something.
    """
    calls = 0
    is_collecting = gc.isenabled()

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        del frame, argument
        calls += event in {"call", "c_call"}

    gc.disable()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        sys.setprofile(count)
        act()
        sys.setprofile(None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        sys.setprofile(None)
        tracemalloc.stop()
        if is_collecting:
            gc.enable()
    return calls, peak - before


@pytest.fixture
def alone() -> Iterator[None]:
    """Let no other thread run while a test does, but where it waits: the bytes that are counted are those of all threads."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(60.0)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.usefixtures("alone")
def test_node_that_joins_or_leaves_costs_the_same_however_many_are_there() -> None:
    seen = Seen()
    models = [offer(f"model-{at}") for at in range(8)]
    of_join: list[tuple[int, int]] = []
    of_leave: list[tuple[int, int]] = []
    for nodes in (15, 1000):  # neither makes a dictionary grow
        while len(seen.view.adverts) < nodes:
            seen.joined(advert(f"P{len(seen.new)}", f"h:{1 + len(seen.new)}", models=models))
        one = [Joined(advert("X", "x:1", models=models))]
        of_join.append(cost_of(partial(seen.view.apply, one)))
        of_leave.append(cost_of(partial(seen.view.apply, [left("X")])))
    for few, many in (of_join, of_leave):
        assert many[0] < few[0] + 100
        assert many[1] < few[1] + 2000, "a tuple of 1,000 has 8,000 bytes"


def tuples_of(view: FleetView) -> dict[tuple[str, str], tuple[Replica, ...]]:
    return {
        (model, version): view.replicas(model, version)
        for model in view.models()
        for version in view.versions(model)
    }


PEERS = ("A", "B", "C")
_offers = st.lists(
    st.builds(
        offer,
        st.sampled_from(["m", "n"]),
        st.sampled_from(["1", "2", "10"]),
        st.sampled_from([ModelState.READY, ModelState.READY, ModelState.FAILED]),
    ),
    max_size=3,
    unique_by=lambda one: (one.name, one.version),
)
_steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("advert"),
            st.sampled_from(PEERS),
            st.lists(st.sampled_from(["h:1", "h:2"]), unique=True),
            _offers,
            st.booleans(),
        ),
        st.tuples(
            st.sampled_from(["left", "visit", "leave", "suspect", "recover"]),
            st.sampled_from(PEERS),
        ),
    ),
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(_steps)
def test_index_is_what_the_adverts_say_whatever_happens(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    seen = Seen()
    adverts: dict[str, NodeAdvert] = {}
    visitors: dict[str, list[Endpoint]] = {peer: [] for peer in PEERS}
    ever: set[Replica] = set()
    for counter, step in enumerate(steps, 1):
        peer = step[1]
        before = tuples_of(seen.view)
        match step:
            case ("advert", _, addresses, offers, is_draining):
                new = advert(
                    peer, *addresses, models=offers, is_draining=is_draining, counter=counter
                )
                known = adverts.get(peer)
                seen.view.apply([Joined(new) if known is None else Changed(new, known)])
                adverts[peer] = new
            case ("left", _):
                seen.view.apply([left(peer)])
                adverts.pop(peer, None)
            case ("visit", _):
                endpoint = Endpoint(PeerId(peer), f"visit-{counter}")
                visitors[peer].append(endpoint)
                seen.view.visit(endpoint)
            case ("leave", _):
                if visitors[peer]:
                    seen.view.leave(visitors[peer].pop(0))
            case ("suspect", _):
                seen.view.apply([Suspected(PeerId(peer))])
            case ("recover", _):
                seen.view.apply([Recovered(PeerId(peer))])
        after = tuples_of(seen.view)
        for key in before.keys() & after.keys():  # a tuple is another one only if its members are
            assert (before[key] is after[key]) == (before[key] == after[key])
        ever.update(replica for replicas in after.values() for replica in replicas)
    assert dict(seen.view.adverts) == adverts
    now = {replica for replicas in tuples_of(seen.view).values() for replica in replicas}
    assert all(replica.is_gone for replica in ever - now)
    dialled = {endpoint for endpoint in seen.new if endpoint not in seen.gone}
    assert len(set(seen.new)) == len(seen.new)
    assert len(set(seen.gone)) == len(seen.gone)
    assert set(seen.gone) <= set(seen.new)
    ways = {peer: {c for c in dialled if c.peer == peer} | set(visitors[peer]) for peer in adverts}
    for peer, reported in adverts.items():
        assert {c.address for c in dialled if c.peer == peer} == set(
            reported.devices[0].data_addresses
        )
        assert set(seen.view.endpoints_of(PeerId(peer))) == ways[peer]
        assert all(c.is_draining == reported.is_draining for c in ways[peer])
    assert {c.peer for c in dialled} <= set(adverts)
    assert len(list(seen.view.endpoints())) == sum(map(len, ways.values()))
    for endpoint in seen.view.endpoints():
        assert set(seen.view.replicas_at(endpoint)) == {h for h in now if h.endpoint is endpoint}
    for model in ("m", "n"):
        by_version: dict[str, set[Endpoint]] = {}
        for peer, reported in adverts.items():
            for one in reported.models:
                if one.name == model and one.is_ready:
                    by_version.setdefault(one.version, set()).update(ways[peer])
        name = ModelName(model)
        assert seen.view.versions(name) == sorted(by_version, key=int)
        for version in ("1", "2", "10"):
            replicas = seen.view.replicas(name, ModelVersion(version))
            at = [replica.endpoint for replica in replicas]
            assert len(at) == len(set(at))
            assert set(at) == by_version.get(version, set())
            assert (version in seen.view.versions_ready(name)) == (version in by_version)
            assert seen.view.has(name, ModelVersion(version)) == (version in by_version)
            for replica in replicas:
                assert replica.advert is adverts[replica.endpoint.peer]
                assert replica.offer in replica.advert.models
                assert (replica.offer.name, replica.offer.version) == (name, version)
                assert not replica.is_gone
        reachable = [version for version, ways_there in by_version.items() if ways_there]
        newest = max(reachable or by_version, key=int, default="")
        assert seen.view.newest(name) == newest
        newest_at = {replica.endpoint for replica in seen.view.replicas(name, ANY)}
        assert newest_at == by_version.get(newest, set())
        found = seen.view.offer(name, ANY)
        assert (found.version if found else "") == newest


def test_same_node_twice_in_an_advert_s_devices_is_one_endpoint_an_address() -> None:
    seen = Seen()
    reported = advert("A", "a:1")
    seen.joined(dataclasses.replace(reported, devices=(*reported.devices, *reported.devices)))
    assert seen.replicas() == ["A@a:1"]
