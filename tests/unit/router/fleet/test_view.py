from __future__ import annotations

import dataclasses

import pytest
from fleet_fakes import advert, offer
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.adverts import ModelState, NodeAdvert
from capamesh.protocol.fleet import Changed, Joined, Left, LeftReason, Recovered, Suspected
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.steps import run_through
from capamesh.router.fleet.endpoint import Candidate
from capamesh.router.fleet.replica import Host
from capamesh.router.fleet.view import FleetView

M = ModelName("m")
ANY = ModelVersion("")


class Seen:
    """A view, and what it said must be dialled and let go."""

    def __init__(self) -> None:
        self.new: list[Candidate] = []
        self.gone: list[Candidate] = []
        self.view = FleetView(on_new=self.new.append, on_gone=self.gone.append)

    def joined(self, *adverts: NodeAdvert) -> None:
        self.view.apply([Joined(one) for one in adverts])

    def hosts(self, model: str = "m", version: str = "") -> list[str]:
        found = self.view.hosts(ModelName(model), ModelVersion(version))
        return [f"{host.candidate.peer}@{host.candidate.address}" for host in found]

    def host(self, address: str, version: str = "") -> Host:
        found = self.view.hosts(M, ModelVersion(version))
        return next(host for host in found if host.candidate.address == address)


def left(peer: str) -> Left:
    return Left(PeerId(peer), LeftReason.GOODBYE)


def test_a_node_is_a_candidate_for_each_of_its_addresses_until_it_leaves() -> None:
    seen = Seen()
    seen.joined(advert("A", "a:1", "a:2"), advert("B", "b:1"))
    assert seen.hosts() == ["A@a:1", "A@a:2", "B@b:1"]
    assert [candidate.address for candidate in seen.new] == ["a:1", "a:2", "b:1"]
    seen.view.apply([left("A")])
    assert seen.hosts() == ["B@b:1"]
    assert [candidate.address for candidate in seen.gone] == ["a:1", "a:2"]
    assert repr(seen.view) == "FleetView(1 nodes, 1 models)"


def test_a_change_of_addresses_keeps_the_candidates_that_stay() -> None:
    seen = Seen()
    before = advert("A", "a:1", "a:2")
    seen.joined(before)
    kept = seen.new[1]
    seen.view.apply([Changed(advert("A", "a:2", "a:3", counter=2), before)])
    assert seen.view.candidates_of(PeerId("A"))[0] is kept
    assert seen.hosts() == ["A@a:2", "A@a:3"]
    assert [candidate.address for candidate in seen.gone] == ["a:1"]


def test_the_newest_version_is_the_largest_number_not_the_last_text() -> None:
    seen = Seen()
    seen.joined(
        advert("A", "a:1", models=[offer(version="9")]),
        advert("B", "b:1", models=[offer(version="10")]),
    )
    assert seen.hosts() == ["B@b:1"]
    assert seen.hosts(version="9") == ["A@a:1"]
    assert seen.hosts(version="3") == []
    assert seen.view.versions(M) == ["9", "10"]
    found = seen.view.offer(M, ANY)
    assert found is not None
    assert found.version == "10"
    seen.view.apply([left("B")])
    assert seen.hosts() == ["A@a:1"]


@pytest.mark.parametrize("state", [ModelState.LOADING, ModelState.FAILED, ModelState.UNLOADING])
def test_a_model_that_is_not_ready_is_listed_but_gets_nothing(state: ModelState) -> None:
    seen = Seen()
    seen.joined(advert("A", "a:1", models=[offer(state=state)]))
    assert seen.hosts() == []
    assert seen.view.models() == []
    assert seen.view.offer(M, ANY) is None
    assert [one.state for one in run_through(seen.view.offers())] == [state]
    seen.joined(advert("B", "b:1"))
    assert [one.state for one in run_through(seen.view.offers())] == [ModelState.READY]
    assert seen.hosts() == ["B@b:1"]


def test_a_visitor_hosts_what_its_advert_says_whichever_comes_first() -> None:
    for advert_first in (True, False):
        seen = Seen()
        visitor = Candidate(PeerId("A"), "dialled-in-1")
        told = advert("A", is_draining=True)
        if advert_first:
            seen.joined(told)
        seen.view.visit(visitor)
        if not advert_first:
            assert seen.hosts() == []
            seen.joined(told)
        assert seen.hosts() == ["A@dialled-in-1"]
        assert visitor.is_draining
        seen.view.leave(visitor)
        seen.view.leave(visitor)
        assert seen.hosts() == []
        assert seen.new == seen.gone == []


def test_a_node_that_dials_is_unreached_while_it_has_not_dialled_and_takes_requests() -> None:
    seen = Seen()
    v1, visitor = ModelVersion("1"), Candidate(PeerId("V"), "dialled-in-1")
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
    (candidate,) = seen.new
    before = advert("A", "a:1")
    seen.view.apply([Changed(advert("A", "a:1", is_draining=True, counter=2), before)])
    assert candidate.is_draining
    seen.view.apply([Changed(advert("A", "a:1", counter=3), before)])
    assert not candidate.is_draining


def test_suspicion_ends_with_recovery_and_does_not_outlive_the_membership() -> None:
    seen = Seen()
    visitor = Candidate(PeerId("A"), "dialled-in-1")
    seen.joined(advert("A", "a:1"))
    seen.view.visit(visitor)
    seen.view.apply([Suspected(PeerId("A"))])
    assert [candidate.is_suspected for candidate in seen.view.candidates()] == [True, True]
    seen.view.apply([Recovered(PeerId("A"))])
    assert [candidate.is_suspected for candidate in seen.view.candidates()] == [False, False]
    seen.view.apply([Suspected(PeerId("A")), left("A")])
    seen.joined(advert("A", "a:1", counter=9))
    assert [candidate.is_suspected for candidate in seen.view.candidates()] == [False, False]


def test_a_host_is_the_same_for_as_long_as_that_candidate_hosts_that_version() -> None:
    seen = Seen()
    before = advert("A", "a:1", "a:2")
    seen.joined(before, advert("B", "b:1"))
    kept, lost = seen.host("a:1"), seen.host("a:2")
    kept.rif = 3
    faster = dataclasses.replace(offer(), row_us=70)
    after = advert("A", "a:1", models=[faster], counter=2)
    seen.view.apply([Changed(after, before)])
    assert seen.host("a:1") is kept
    assert (kept.rif, kept.offer, kept.advert) == (3, faster, after)
    assert (kept.is_gone, lost.is_gone) == (False, True)
    assert seen.view.hosts_at(kept.candidate) == [kept]
    assert seen.view.hosts_at(lost.candidate) == []
    unloaded = advert("A", "a:1", models=[offer(version="2")], counter=3)
    seen.view.apply([Changed(unloaded, after)])
    assert kept.is_gone
    seen.view.apply([Changed(after, unloaded)])
    assert seen.host("a:1") is not kept


def test_a_tuple_of_hosts_is_the_same_until_one_comes_or_goes() -> None:
    seen = Seen()
    both = [offer("m"), offer("n")]
    first = advert("A", "a:1", models=both)
    seen.joined(first, advert("B", "b:1", models=both))
    of_m, of_n = (seen.view.hosts(ModelName(name), ANY) for name in "mn")
    again = advert("A", "a:1", models=both, is_draining=True, counter=2)
    seen.view.apply([Changed(again, first), Suspected(PeerId("A")), Recovered(PeerId("A"))])
    assert seen.view.hosts(M, ANY) is of_m
    assert seen.view.hosts(ModelName("n"), ANY) is of_n
    seen.view.apply([Changed(advert("A", "a:1", models=[offer("n")], counter=3), again)])
    assert seen.view.hosts(M, ANY) == of_m[1:]
    assert seen.view.hosts(ModelName("n"), ANY) is of_n
    visitor = Candidate(PeerId("B"), "dialled-in-1")
    seen.view.visit(visitor)
    assert [host.candidate for host in seen.view.hosts(M, ANY)[1:]] == [visitor]
    host = seen.view.hosts(M, ANY)[1]
    seen.view.leave(visitor)
    assert host.is_gone
    assert seen.view.hosts(M, ANY) == of_m[1:]


def tuples_of(view: FleetView) -> dict[tuple[str, str], tuple[Host, ...]]:
    return {
        (model, version): view.hosts(model, version)
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
def test_whatever_happens_the_index_is_what_the_adverts_say(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    seen = Seen()
    adverts: dict[str, NodeAdvert] = {}
    visitors: dict[str, list[Candidate]] = {peer: [] for peer in PEERS}
    ever: set[Host] = set()
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
                candidate = Candidate(PeerId(peer), f"visit-{counter}")
                visitors[peer].append(candidate)
                seen.view.visit(candidate)
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
        ever.update(host for hosts in after.values() for host in hosts)
    assert dict(seen.view.adverts) == adverts
    now = {host for hosts in tuples_of(seen.view).values() for host in hosts}
    assert all(host.is_gone for host in ever - now)
    dialled = {candidate for candidate in seen.new if candidate not in seen.gone}
    assert len(set(seen.new)) == len(seen.new)
    assert len(set(seen.gone)) == len(seen.gone)
    assert set(seen.gone) <= set(seen.new)
    ways = {peer: {c for c in dialled if c.peer == peer} | set(visitors[peer]) for peer in adverts}
    for peer, told in adverts.items():
        assert {c.address for c in dialled if c.peer == peer} == set(told.devices[0].data_addresses)
        assert set(seen.view.candidates_of(PeerId(peer))) == ways[peer]
        assert all(c.is_draining == told.is_draining for c in ways[peer])
    assert {c.peer for c in dialled} <= set(adverts)
    assert len(list(seen.view.candidates())) == sum(map(len, ways.values()))
    for candidate in seen.view.candidates():
        assert set(seen.view.hosts_at(candidate)) == {h for h in now if h.candidate is candidate}
    for model in ("m", "n"):
        by_version: dict[str, set[Candidate]] = {}
        for peer, told in adverts.items():
            for one in told.models:
                if one.name == model and one.is_ready:
                    by_version.setdefault(one.version, set()).update(ways[peer])
        name = ModelName(model)
        assert seen.view.versions(name) == sorted(by_version, key=int)
        for version in ("1", "2", "10"):
            hosts = seen.view.hosts(name, ModelVersion(version))
            at = [host.candidate for host in hosts]
            assert len(at) == len(set(at))
            assert set(at) == by_version.get(version, set())
            assert (version in seen.view.versions_ready(name)) == (version in by_version)
            assert seen.view.has(name, ModelVersion(version)) == (version in by_version)
            for host in hosts:
                assert host.advert is adverts[host.candidate.peer]
                assert host.offer in host.advert.models
                assert (host.offer.name, host.offer.version) == (name, version)
                assert not host.is_gone
        reachable = [version for version, ways_there in by_version.items() if ways_there]
        newest = max(reachable or by_version, key=int, default="")
        assert seen.view.newest(name) == newest
        newest_at = {host.candidate for host in seen.view.hosts(name, ANY)}
        assert newest_at == by_version.get(newest, set())
        found = seen.view.offer(name, ANY)
        assert (found.version if found else "") == newest


def test_the_same_node_twice_in_an_advert_s_devices_is_one_candidate_an_address() -> None:
    seen = Seen()
    told = advert("A", "a:1")
    seen.joined(dataclasses.replace(told, devices=(*told.devices, *told.devices)))
    assert seen.hosts() == ["A@a:1"]
