from __future__ import annotations

import random
from collections import Counter

import pytest
from replicas import SHAPE, fleet, lose, name, send, usable

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies import prefix_aware
from capamesh.router.policies.prefix_aware import BLOCK_TOKENS, SMALL_FLEET, PrefixAware
from capamesh.router.policies.request_shape import RequestShape

MS_NS = 1_000_000


def shape(*blocks: int) -> RequestShape:
    """Return the request of a prompt that has these beginnings, each of `BLOCK_TOKENS`."""
    return SHAPE.replace(beginnings=blocks, size_bytes=4 * BLOCK_TOKENS * len(blocks))


def told(one: Replica, policy: PrefixAware | None = None, now_s: float = 0.0, **load: int) -> None:
    """Let a replica report its load, by which a token of a prompt takes a millisecond unless it says so."""
    one.reported(LoadReport(**{"limit": 100, "token_ns": MS_NS, **load}), now_s)
    if policy is not None:
        policy.reported(one, now_s)


def pick(
    policy: PrefixAware, replicas: tuple[Replica, ...], *blocks: int, now_s: float = 0.0
) -> str:
    return name(policy.pick(replicas, usable, shape(*blocks), now_s))


def test_longest_beginning_counts() -> None:
    policy, replicas = PrefixAware(random.Random(1)), fleet("ab")
    assert pick(policy, replicas, 1, 2, 3) == "a"
    lose(replicas[0])
    assert pick(policy, replicas, 1, 2, 3, 4, 5, 6, 7) == "b"
    replicas[0].endpoint.link = replicas[1].endpoint.link = fleet("x")[0].endpoint.link
    for one in replicas:
        told(one, policy, now_s=1.0)
    assert pick(policy, replicas, 1, 2, 3, 4, 5, 6, 7, 8, now_s=1.0) == "b"


@pytest.mark.parametrize(("queue_ms", "expected"), [(600, "a"), (680, "b")])
def test_beginning_is_run_again_where_its_node_has_more_to_do_than_that_takes(
    queue_ms: int, expected: str
) -> None:
    policy, replicas = PrefixAware(random.Random(1)), fleet("ab")
    assert pick(policy, replicas, *range(20)) == "a"
    told(replicas[0], policy, now_s=1.0, queue_us=1000 * queue_ms)
    told(replicas[1], policy, now_s=1.0)
    # 20 blocks of 32 tokens at a millisecond
    assert pick(policy, replicas, *range(21), now_s=1.0) == expected


def test_node_without_room_for_a_prompt_is_passed_by() -> None:
    policy, replicas = PrefixAware(random.Random(1)), fleet("ab")
    told(replicas[0], held_tokens=990, most_tokens=1000)
    told(replicas[1], held_tokens=500, most_tokens=1000, in_flight=1)
    assert pick(policy, replicas, *range(10)) == "b"


def test_liar_that_reports_nothing_to_do_draws_no_more_than_its_share() -> None:
    policy, replicas = PrefixAware(random.Random(1)), fleet("abcd")
    counts: Counter[str] = Counter()
    for step in range(200):
        now_s = step / 10
        for one in replicas:
            truth = {"in_flight": one.rif, "queue_us": 300_000 * one.rif}
            told(one, policy, now_s, **({"token_ns": 1} if one is replicas[0] else truth))
        picked = policy.pick(replicas, usable, shape(*range(step * 9, step * 9 + 9)), now_s)
        assert picked is not None
        send(policy, picked, now_s)
        counts[name(picked)] += 1
        done = replicas[step % 4]  # all are as fast
        done.rif = max(0, done.rif - 1)
    assert counts["a"] < 0.35 * 200
    assert replicas[0].rif < 20


def test_node_that_leaves_is_forgotten() -> None:
    policy, replicas = PrefixAware(random.Random(1)), fleet("ab")
    assert pick(policy, replicas, 1, 2, 3) == "a"
    assert pick(policy, replicas[1:], 1, 2, 3) == "b"
    assert set(policy._accounts) == {replicas[1]}
    assert policy._holders == {block: {replicas[1]: None} for block in (1, 2, 3)}


def test_memory_is_bounded_whatever_a_node_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_aware, "MOST_BLOCKS", 50)
    policy, replicas = PrefixAware(random.Random(1)), fleet("a")
    told(replicas[0], kept_tokens=2**40)
    for at in range(0, 1000, 10):
        pick(policy, replicas, *range(at, at + 10))
    assert len(policy._holders) == len(policy._accounts[replicas[0]].blocks) == 50
    assert len(policy._accounts[replicas[0]].owed) <= prefix_aware.MOST_OWED


def test_holder_is_found_in_a_large_fleet() -> None:
    policy, replicas = PrefixAware(random.Random(1)), fleet([0] * (10 * SMALL_FLEET))
    first = pick(policy, replicas, *range(30))
    (holder,) = (one for one in replicas if name(one) == first)
    told(holder, policy, now_s=1.0)
    for _ in range(20):
        assert pick(policy, replicas, *range(30), now_s=1.0) == first
        policy.reported(holder, 2.0)
