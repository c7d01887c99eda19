from __future__ import annotations

import dataclasses

from fleet_fakes import advert, offer
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.adverts import ModelState, NodeAdvert
from capamesh.protocol.fleet import Changed, Joined, Left, LeftReason, Recovered, Suspected
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
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


def left(peer: str) -> Left:
    return Left(PeerId(peer), LeftReason.GOODBYE)


def test_suspicion_ends_with_recovery_and_does_not_outlive_the_membership() -> None:
    seen = Seen()
    visitor = Endpoint(PeerId("A"), "dialled-in-1")
    seen.joined(advert("A", "a:1"))
    seen.view.visit(visitor)
    suspected, again = Suspected(PeerId("A")), Joined(advert("A", "a:1", counter=9))
    for changes, is_suspected in (
        ([suspected], True),
        ([Recovered(PeerId("A"))], False),
        ([suspected, left("A"), again], False),
    ):
        seen.view.apply(changes)
        assert {each.is_suspected for each in seen.view.endpoints()} == {is_suspected}


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
                how = {"models": offers, "is_draining": is_draining, "counter": counter}
                new = advert(peer, *addresses, **how)
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
    (replica,) = seen.view.replicas(M, ANY)
    assert (replica.endpoint.peer, replica.endpoint.address) == ("A", "a:1")
