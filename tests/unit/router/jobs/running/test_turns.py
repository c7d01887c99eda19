"""Tenants and jobs share row-seconds."""

from __future__ import annotations

from collections import Counter

from capamesh.router.jobs.running.turns import Turns

Wanted = dict[str, dict[str, float]]


def shares(turns: Turns[str], wanted: Wanted, count: int) -> Counter[str]:
    """Return the row-seconds that each job gets."""
    taken: Counter[str] = Counter()
    for _ in range(count):
        found = turns.next(wanted)
        assert found is not None
        tenant, job = found
        taken[job] += wanted[tenant][job]  # type: ignore[assignment]
    return taken


def test_tenants_share_alike_however_many_jobs_they_have() -> None:
    wanted = {"one": {"a": 5.0}, "many": {f"b{at}": 5.0 for at in range(9)}}
    taken = shares(Turns(), wanted, 900)
    assert taken["a"] == 2250
    assert {taken[f"b{at}"] for at in range(9)} == {250.0}


def test_tenants_wait_no_longer_than_a_round() -> None:
    turns: Turns[str] = Turns()
    wanted = {f"t{at}": {"j": 1.0} for at in range(5)}
    for _ in range(4):
        seen = [turns.next(wanted) for _ in range(5)]
        assert sorted(each[0] for each in seen if each) == sorted(wanted)


def test_tenant_that_wants_nothing_saves_nothing_up() -> None:
    turns: Turns[str] = Turns()
    both = {"a": {"j": 1.0}, "b": {"k": 1.0}}
    shares(turns, both, 10)
    shares(turns, {"a": both["a"]}, 1000)
    taken = shares(turns, both, 10)
    assert taken == {"j": 5, "k": 5}
