from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ModelUnavailable
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.router.fleet.wanted_loads import MAX_LOADS, MAX_RESTS, Away, WantedLoad, WantedLoads


def load(where: str, model: str = "m") -> WantedLoad:
    """Return a load from a text such as "a/1", or "a/1 of i" at a node that the invite "i" has admitted."""
    place, _, invite = where.partition(" of ")
    peer, _, version = place.partition("/")
    return WantedLoad(PeerId(peer), ModelName(model), ModelVersion(version), invite or peer)


def asked(
    loads: WantedLoads, *where: str, model: str = "m", now_s: float = 0.0
) -> WantedLoad | None:
    places = [Away(each.peer, each.version, each.invite) for each in map(load, where)]
    return loads.next(ModelName(model), places, lambda _: True, now_s)


def test_invite_whose_node_broke_its_word_is_asked_after_all_others_for_any_model() -> None:
    loads = WantedLoads()
    first = load("x/1 of evil")
    loads.failed(first, ModelUnavailable("says so, and has it not"), 0.0, is_broken=True)
    nodes = ("y/9 of evil", "z/9 of evil", "a/1")
    assert asked(loads, *nodes, model="n") == load("a/1", "n")
    loads.failed(load("a/1", "n"), ModelUnavailable(), 0.0)
    assert asked(loads, *nodes, model="n") == load("y/9 of evil", "n")
    loads.loaded(load("y/9 of evil", "n"))
    assert asked(loads, *nodes, model="o") == load("y/9 of evil", "o")


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 30), st.booleans(), st.floats(0, 5)),
        max_size=200,
    )
)
@settings(deadline=None)
def test_node_and_model_are_busy_once_whatever_strangers_ask_for(
    events: list[tuple[int, int, bool, float]],
) -> None:
    loads = WantedLoads()
    now_s = 0.0
    under_way: list[WantedLoad] = []
    for peer, model, ends, passed_s in events:
        now_s += passed_s
        if ends and under_way:
            loads.failed(under_way.pop(0), ModelUnavailable(), now_s)
        found = asked(loads, f"{peer}/1", f"{peer + 1}/1", model=str(model), now_s=now_s)
        if found is not None:
            under_way.append(found)
        assert len({one.peer for one in under_way}) == len(under_way) <= MAX_LOADS
        assert len({one.model for one in under_way}) == len(under_way)


def test_memory_of_known_ones_is_bounded() -> None:
    loads = WantedLoads()
    for at in range(MAX_RESTS + 100):
        loads.failed(load("a/1", model=str(at)), ModelUnavailable(), 0.0)
    assert len(loads._rests) == MAX_RESTS
    for at in range(MAX_RESTS + 100):
        loads.failed(load(f"a/1 of {at}"), ModelUnavailable(), 0.0, is_broken=True)
    assert len(loads._broken) == MAX_RESTS
