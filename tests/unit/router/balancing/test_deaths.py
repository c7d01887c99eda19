"""Whose fault the end of a process is, and whose word is enough against a request."""

from __future__ import annotations

import pytest
from replicas import fleet

from capamesh.protocol.ids import PeerId
from capamesh.router.balancing.deaths import MAX_DEATHS, Deaths, Stand, Suspicion
from capamesh.router.balancing.witnesses import Witness, are_enough
from capamesh.router.fleet.endpoint import Endpoint


class Court:
    """Deaths of nodes named by letters, on a clock that the test moves."""

    def __init__(self) -> None:
        self.news: list[float] = []
        self.deaths = Deaths(lambda: self.news.append(self.now_s))
        self.endpoints: dict[str, Endpoint] = {}
        self.now_s = 100.0

    def node(self, name: str) -> Endpoint:
        if name not in self.endpoints:
            made = self.endpoints[name] = Endpoint(PeerId(name), f"{name}:1")
            made.process, made.linked_s, made.process_s = b"first", 1.0, 1.0
        return self.endpoints[name]

    def die(self, name: str, *suspects: Suspicion) -> None:
        """The process at a node ends with these requests under way."""
        self.now_s += 1.0
        for each in suspects:
            self.deaths.died(self.node(name), each, self.now_s)

    def back(self, name: str, process: bytes = b"second") -> None:
        """A node has a new link."""
        self.now_s += 1.0
        node = self.node(name)
        node.linked_s = self.now_s
        if process != node.process:
            node.process, node.process_s = process, self.now_s
        self.deaths.linked(node)


def test_request_alone_in_two_deaths_is_guilty_once_both_are_certain() -> None:
    court, one = Court(), Suspicion()
    court.die("A", one)
    court.die("B", one)
    assert court.deaths.stand(one) is Stand.OPEN
    court.back("B")
    assert court.deaths.stand(one) is Stand.OPEN
    assert court.deaths.stand(one, is_final=True) is Stand.GUILTY
    court.back("A")
    assert len(court.news) == 2
    assert court.deaths.stand(one) is Stand.GUILTY
    court.deaths.convicted(one)
    assert court.deaths.stand(one) is Stand.FREE  # which nobody asks any more
    assert repr(court.deaths) == "Deaths(0 open)"


def test_link_that_returns_to_the_same_process_was_no_death() -> None:
    court, one = Court(), Suspicion()
    for name in "AB":
        court.die(name, one)
    court.back("A", b"first")
    assert court.deaths.stand(one, is_final=True) is Stand.FREE
    assert repr(one) == "Suspicion(1 deaths)"


def test_worker_of_another_device_that_is_linked_anew_proves_nothing() -> None:
    court, one = Court(), Suspicion()
    court.die("A", one)
    court.die("B", one)
    other = Endpoint(PeerId("A"), "A:2")
    other.process, other.process_s, other.linked_s = b"other", 1.0, court.now_s + 1
    court.deaths.linked(other)
    court.back("B")
    assert court.deaths.stand(one) is Stand.OPEN


def test_deaths_that_are_looked_into_are_bounded_and_those_forgotten_convict_nobody() -> None:
    court, one = Court(), Suspicion()
    for name in range(MAX_DEATHS + 2):
        court.die(str(name), one)
    assert repr(court.deaths) == f"Deaths({MAX_DEATHS} open)"
    assert [each.is_muddled for each in one.deaths] == [True] * 2 + [False] * MAX_DEATHS


@pytest.mark.parametrize(
    ("died", "peers", "shunned"),
    [
        ("", "abcd", ["", "", ""]),
        ("a", "abcd", ["ab", "a", ""]),  # b is of the same invite
        ("d", "abcd", ["d", "d", ""]),  # nobody knows the invite of d
        ("ac", "abcd", ["abc", "ac", ""]),  # of two invites, which suffices
        ("ab", "abcd", ["ab"]),  # of one: only another invite's word is worth a third
        ("aa", "ab", ["a"]),  # there is no other invite
        ("aa", "abc", ["ab"]),
    ],
)
def test_replicas_of_other_invites_are_asked_before_other_nodes_after_a_death(
    died: str, peers: str, shunned: list[str]
) -> None:
    invites = {"a": "x", "b": "x", "c": "y"}
    deaths, one = Deaths(lambda: None, lambda peer: invites.get(peer, "")), Suspicion()
    replicas = fleet(peers)
    for now_s, name in enumerate(died):
        endpoint = Endpoint(PeerId(name), f"{name}:{now_s}")
        deaths.died(endpoint, one, float(now_s))
    found = deaths.shunned(one, replicas, [each.endpoint.peer for each in replicas])
    assert ["".join(each.endpoint.peer for each in group) for group in found] == shunned


def witnesses(names: str) -> list[Witness]:
    """Return one witness for each word: its peer, and after a colon its invite."""
    pairs = [name.partition(":") for name in names.split()]
    return [Witness(PeerId(peer), invite) for peer, _, invite in pairs]


@pytest.mark.parametrize(
    ("heard", "replicas", "is_enough"),
    [
        ("", "a:x", False),
        ("", "", False),
        ("a:x", "a:x", True),  # nobody else has the model
        ("a:x", "a:x b:x", False),
        ("a:x a:x", "a:x b:x", False),  # two deaths at one node
        ("a:x b:x", "a:x b:x c:x", True),
        ("a:x b:x", "a:x b:x c:y", False),  # one invite where there are two
        ("a:x b:x", "a:x b:x c:", True),  # an invite that is not known is no other one
        ("a:x b:y", "c:z d:x", True),
        ("a:x b:y", "", True),
        ("a: b:", "c:", True),
        ("a: b:", "c:x", False),
        ("a:x b:", "c:x", True),
        ("a:x a:y", "a:x b:x", False),  # two invites of one node
    ],
)
def test_word_must_be_of_two_nodes_and_two_invites_as_far_as_there_are_two(
    heard: str, replicas: str, is_enough: bool
) -> None:
    assert are_enough(witnesses(heard), witnesses(replicas)) is is_enough
