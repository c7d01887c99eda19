"""Who owns a model: which file a version is, and which versions are trusted, as nodes come, change and go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_fakes import advert, offer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import ModelOffer, ModelState
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.publishing import sign
from capamesh.router.ownership import owners as owners_module
from capamesh.router.ownership.owners import Owners
from capamesh.router.ownership.pins import Pin, Why, pins_from_json, pins_to_json
from capamesh.router.ownership.version import ABSTAIN_S, GRACE_S, KEEP_S, MAX_ABSENT, SETTLE_S
from capamesh.router.rules.model_rules import ModelRules, RoutingRules

M = ModelName("m")
ALICE, MALLORY = Identity.generate(), Identity.generate()


def digest(letter: str) -> str:
    return "sha256-chunks:" + letter * 64


def at(version: str, letter: str, *, signed_by: Identity | None = None) -> ModelOffer:
    signed = b"" if signed_by is None else sign(signed_by, M, version, digest(letter))
    return replace(offer("m", version), digest=digest(letter), signed=signed)


class Fleet:
    """Owners, and nodes that come, change and go, at a time that only moves when it is told to."""

    def __init__(self, rules: ModelRules | None = None, publishers: tuple[str, ...] = ()) -> None:
        self.rules = RoutingRules(rules or ModelRules())
        self.now_s = 1_000_000.0
        self.owners = Owners(rules=self.rules, publishers=publishers)

    def take(self, rules: ModelRules) -> None:
        self.owners.take_rules(RoutingRules(rules), self.now_s)

    def replicas(self, peer: str, *offers: ModelOffer, invite: str = "i") -> None:
        self.owners.heard(advert(peer, models=offers), invite, self.now_s)

    def leaves(self, *peers: str) -> None:
        for peer in peers:
            self.owners.left(PeerId(peer), self.now_s)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.owners.tick(self.now_s)

    def settle(self) -> None:
        self.wait(SETTLE_S)

    def restart(self) -> None:
        """Forget all but the pins, as they are written to a file."""
        pins = pins_from_json(pins_to_json(self.owners.pins()))
        self.owners = Owners(rules=self.rules)
        self.owners.remember(pins, self.now_s)

    def served(self, version: str = "1") -> str:
        """Return the letter of the digest that is served, "-" for none."""
        found = [
            each for each in "abcdef" if self.owners.admits(M, ModelVersion(version), digest(each))
        ]
        assert len(found) <= 1
        return "".join(found) or "-"

    def trusted(self) -> str:
        """Return the trusted versions."""
        return "".join(
            str(number)
            for number in range(10)
            if self.owners.is_trusted(M, ModelVersion(str(number)))
        )

    def news(self) -> list[str]:
        return [each.event for each in self.owners.take_news()]


# which file a version is


@pytest.mark.parametrize("invites", ["ii", "ij"])
def test_two_nodes_with_different_files_are_never_mixed_and_the_one_known_before_is_served(
    invites: str,
) -> None:
    fleet = Fleet()
    fleet.settle()
    fleet.replicas("A", at("1", "a"), invite=invites[0])
    fleet.settle()
    fleet.replicas("B", at("1", "b"), invite=invites[1])
    assert (fleet.served(), fleet.news()) == ("a", ["model_digest_ignored"])
    fleet.replicas("B", at("1", "b"), invite=invites[1])
    fleet.settle()
    assert (fleet.served(), fleet.news()) == ("a", [])
    assert fleet.owners.contested() == 1
    (shown,) = fleet.owners.described()
    assert (shown["digest"], shown["reason"], shown["standing"], shown["nodes"]) == (
        digest("a"), "first_seen", "trusted", 1,
    )  # fmt: skip
    assert shown["others"] == [{"digest": digest("b"), "nodes": 1, "invites": 1, "peers": ["B"]}]
    fleet.leaves("A")  # which is no reason to take another invite's
    fleet.wait(KEEP_S - 1)
    assert fleet.served() == ("b" if invites == "ii" else "a")


@pytest.mark.parametrize("invites", ["ii", "ij"])
def test_router_that_starts_serves_none_of_two_files_until_more_invites_have_one_or_rules_name_it(
    invites: str,
) -> None:
    fleet = Fleet()
    fleet.replicas("A", at("1", "a"), invite=invites[0])
    assert fleet.served() == "a"
    fleet.replicas("B", at("1", "b"), invite=invites[1])
    fleet.settle()
    fleet.wait(10 * KEEP_S)
    assert (fleet.served(), fleet.owners.contested()) == ("-", 1)
    assert "capamesh model trust m" in fleet.owners.withheld(M, ModelVersion("1"))
    assert fleet.owners.pins() == []
    fleet.take(ModelRules(digests={ModelVersion("1"): digest("b")}))
    assert fleet.served() == "b"
    fleet.take(ModelRules())
    fleet.replicas("C", at("1", "a"), invite="third")
    assert fleet.served() == ("b" if invites == "ii" else "a")


def test_file_of_one_invite_that_came_first_gives_way_to_that_of_two() -> None:
    fleet = Fleet()
    fleet.settle()
    fleet.replicas("X", at("1", "b"), invite="first")
    fleet.wait(KEEP_S)
    fleet.replicas("A", at("1", "a"), invite="one")
    assert fleet.served() == "b"
    fleet.news()
    fleet.replicas("B", at("1", "a"), invite="two")
    assert (fleet.served(), fleet.news()) == ("a", ["model_digest_served", "model_digest_ignored"])
    (shown,) = fleet.owners.described()
    assert (shown["nodes"], shown["invites"]) == (2, 2)


def test_file_replaced_on_most_holders_is_rolled_out_and_the_operator_is_reported() -> None:
    fleet = Fleet()
    for peer in "ABC":
        fleet.replicas(peer, at("1", "a"))
    fleet.settle()
    fleet.replicas("A", at("1", "b"))
    assert fleet.served() == "a"
    fleet.news()
    fleet.replicas("B", at("1", "b"))
    assert (fleet.served(), fleet.news()) == ("b", ["model_digest_served", "model_digest_ignored"])
    fleet.replicas("C", at("1", "b"))
    assert fleet.owners.contested() == 0


def test_host_of_the_file_for_a_while_cannot_replace_it_while_the_others_are_away() -> None:
    fleet = Fleet()
    fleet.replicas("A", at("1", "a"), invite="honest")
    fleet.replicas("X", at("1", "a"), invite="evil")
    fleet.settle()
    fleet.leaves("A")
    fleet.replicas("X", at("1", "b"), invite="evil")
    fleet.wait(ABSTAIN_S - 1)
    assert fleet.served() == "a"
    fleet.replicas("A", at("1", "a"), invite="honest")
    fleet.wait(ABSTAIN_S)
    assert fleet.served() == "a"


# rules and signatures


def test_rules_name_a_digest_and_no_other_is_served_even_if_nobody_replicas_it() -> None:
    fleet = Fleet(ModelRules(digests={ModelVersion("1"): digest("c")}))
    fleet.replicas("A", at("1", "a"))
    assert (fleet.served(), fleet.owners.admits(M, ModelVersion("1"), digest("a"))) == ("c", False)
    assert "by the router's rules" in fleet.owners.withheld(M, ModelVersion("1"))
    fleet.take(ModelRules())
    assert fleet.served() == "a"


def test_publisher_s_signature_beats_who_was_first_and_stays_when_its_nodes_are_away() -> None:
    fleet = Fleet(publishers=(ALICE.peer_id,))
    for number in range(5):
        fleet.replicas(f"X{number}", at("1", "b"), invite=f"i{number}")
    fleet.settle()
    fleet.replicas("A", at("1", "a", signed_by=ALICE), invite="late")
    assert (fleet.served(), fleet.trusted()) == ("a", "1")
    (shown,) = fleet.owners.described()
    assert (shown["reason"], shown["publisher"]) == ("signed", ALICE.peer_id)
    fleet.leaves("A")
    fleet.wait(10 * KEEP_S)
    assert fleet.served() == "a"


def test_publishers_that_a_renewed_membership_names_count_from_then_on() -> None:
    fleet = Fleet()
    fleet.replicas("X", at("1", "b"))
    fleet.settle()
    fleet.replicas("A", at("1", "a", signed_by=ALICE), invite="late")
    assert fleet.served() == "b"
    fleet.owners.take_publishers((ALICE.peer_id,), fleet.now_s)
    assert fleet.served() == "a"  # though no node says anything anew
    fleet.leaves("A")
    fleet.owners.take_publishers((), fleet.now_s)
    assert fleet.served() == "a"  # as it was pinned
    assert fleet.owners._signed == {}


def test_publisher_that_the_rules_come_to_name_has_signed_what_is_there_already() -> None:
    fleet = Fleet()
    fleet.replicas("A", at("1", "a", signed_by=ALICE))
    fleet.replicas("B", at("1", "a", signed_by=ALICE), at("2", "b"))
    fleet.settle()
    fleet.take(ModelRules(publishers=frozenset({ALICE.peer_id})))
    assert (fleet.served(), fleet.served("2")) == ("a", "-")
    (shown, _) = fleet.owners.described()
    assert (shown["reason"], shown["publisher"], shown["standing"]) == (
        "signed",
        ALICE.peer_id,
        "trusted",
    )
    fleet.take(ModelRules(publishers=frozenset({MALLORY.peer_id})))
    assert fleet.served() == "-"


@pytest.mark.parametrize("forged", ["another key", "another version", "another digest", "junk"])
def test_signature_that_is_not_good_counts_for_nothing(forged: str) -> None:
    fleet = Fleet(publishers=(ALICE.peer_id,))
    fleet.replicas("A", at("1", "a"))
    fleet.settle()
    good = at("1", "b", signed_by=ALICE)
    bad = {
        "another key": at("1", "b", signed_by=MALLORY),
        "another version": replace(good, version=ModelVersion("2")),
        "another digest": replace(good, digest=digest("c")),
        "junk": replace(good, signed=good.signed[:32] + bytes(64)),
    }[forged]
    fleet.replicas("X", bad, invite="evil")
    assert (fleet.served(), fleet.trusted()) == ("a", "1")


def test_flood_of_bad_signatures_costs_one_verification_an_advert(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "capamesh.router.ownership.publishers.is_signed",
        lambda _signed, model, *_: asked.append(model),
    )
    fleet = Fleet(publishers=(ALICE.peer_id,))
    bad = at("1", "a", signed_by=ALICE).signed[:32] + bytes(64)
    fleet.replicas(
        "X", *(replace(at("1", "a"), name=ModelName(f"m{n}"), signed=bad) for n in range(100))
    )
    assert asked == ["m0"]


def test_rules_that_name_publishers_let_nothing_else_be_served() -> None:
    fleet = Fleet(ModelRules(publishers=frozenset({ALICE.peer_id})), (MALLORY.peer_id,))
    fleet.replicas("A", at("1", "a"))
    fleet.replicas("X", at("1", "b", signed_by=MALLORY))
    assert fleet.served() == "-"
    assert "none has signed it" in fleet.owners.withheld(M, ModelVersion("1"))
    fleet.replicas("B", at("1", "c", signed_by=ALICE))
    assert (fleet.served(), fleet.trusted()) == ("c", "1")


# which versions are trusted


def test_new_version_on_most_nodes_of_the_one_operator_is_trusted() -> None:
    fleet = Fleet()
    for peer in "ABC":
        fleet.replicas(peer, at("1", "a"))
    fleet.settle()
    fleet.replicas("A", at("1", "a"), at("2", "b"))
    assert fleet.trusted() == "1"
    fleet.news()
    fleet.replicas("B", at("2", "b"))
    assert (fleet.trusted(), fleet.news()) == ("12", ["model_version_trusted"])


def test_most_of_all_invites_are_a_quorum_where_they_are_two_at_least() -> None:
    fleet = Fleet()
    fleet.replicas("A", at("1", "a"), invite="one")
    fleet.settle()
    fleet.replicas("B", at("2", "b"), invite="two")
    assert fleet.trusted() == "1"
    fleet.replicas("C", at("2", "b"), invite="three")
    assert fleet.trusted() == "12"


def test_others_wait_for_their_place_when_those_with_the_trusted_version_are_away() -> None:
    fleet = Fleet()
    fleet.replicas("A", at("1", "a"), invite="honest")
    fleet.settle()
    fleet.replicas("X", at("9", "b"), invite="evil")
    fleet.leaves("A")
    fleet.wait(KEEP_S - 1)
    assert fleet.trusted() == "1"
    assert "does not trust yet" in fleet.owners.withheld(M, ModelVersion(""))
    fleet.replicas("A2", at("2", "c"), invite="honest")
    fleet.wait(1)
    assert fleet.trusted() == "12"


def test_word_of_a_publisher_or_the_rules_leaves_all_else_to_those_who_name_it() -> None:
    fleet = Fleet(publishers=(ALICE.peer_id,))
    fleet.replicas("X", at("9", "b"))
    fleet.settle()
    assert fleet.trusted() == "9"
    fleet.replicas("A", at("1", "a", signed_by=ALICE))
    assert fleet.trusted() == "1"
    assert not fleet.owners.may_try(M, ModelVersion("9"))
    assert [each["standing"] for each in fleet.owners.described()] == ["trusted", "by name only"]


# models that are away for want of memory


def away(version: str, letter: str) -> ModelOffer:
    return replace(at(version, letter), state=ModelState.UNLOADED)


# bounds


def test_one_invite_can_bring_so_many_versions_and_others_are_unhurt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owners_module, "MAX_OF_INVITE", 5)
    fleet = Fleet()
    fleet.replicas("X", *(at(str(number), "b") for number in range(2, 20)), invite="evil")
    assert repr(fleet.owners) == "Owners(5 versions of 1 models)"
    fleet.replicas("A", at("1", "a"), invite="honest")
    assert fleet.served() == "a"
    fleet.leaves("X")
    fleet.replicas("Y", *(at(str(number), "b") for number in range(30, 50)), invite="evil")
    assert fleet.served() == "a"
    assert len(fleet.owners.pins()) == 6


# properties

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["X", "Y", "Z"]),
        st.sampled_from(["", "1a", "1b", "1c", "9b", "9c"]),
        st.sampled_from([0.0, 1.0, SETTLE_S, GRACE_S, KEEP_S]),
    ),
    max_size=25,
)


@given(STEPS)
def test_one_invite_changes_nothing_about_a_model_whose_node_is_there(
    steps: list[tuple[str, str, float]],
) -> None:
    fleet = Fleet()
    fleet.replicas("A", at("1", "a"), invite="honest")
    fleet.settle()
    for peer, what, wait_s in steps:
        offers = (at(what[0], what[1]),) if what else ()
        fleet.replicas(peer, *offers, invite="evil")
        fleet.wait(wait_s)
        assert (fleet.served(), fleet.trusted()) == ("a", "1")


@given(STEPS, st.booleans())
def test_digest_served_is_at_most_one_and_was_brought_by_somebody(
    steps: list[tuple[str, str, float]], is_restarted: bool
) -> None:
    fleet = Fleet()
    brought: set[str] = set()
    for peer, what, wait_s in steps:
        if what:
            brought.add(what)
        fleet.replicas(peer, *([at(what[0], what[1])] if what else []), invite=peer)
        fleet.wait(wait_s)
        for version in "19":
            served = fleet.served(version)
            assert served == "-" or version + served in brought
    before = fleet.served("1"), fleet.served("9"), fleet.trusted()
    if is_restarted:
        fleet.restart()
        assert (fleet.served("1"), fleet.served("9"), fleet.trusted()) == before


@given(st.permutations(["A", "B", "C", "X"]), st.booleans())
def test_order_in_which_nodes_are_heard_at_the_start_does_not_matter(
    order: list[str], is_denied: bool
) -> None:
    """Where one invite alone denies a file, none is served, and its version is not taken."""
    fleet = Fleet()
    for peer in order:
        if peer == "X":
            fleet.replicas("X", at("1", "b"), at("9", "b"), invite="evil")
        else:
            invite = "honest" if is_denied or peer == "A" else "too"
            fleet.replicas(peer, at("1", "a"), invite=invite)
    fleet.settle()
    assert (fleet.served(), fleet.trusted()) == ("-" if is_denied else "a", "1")


# the file

PINS = st.builds(
    Pin,
    model=st.text(min_size=1, max_size=256).map(ModelName),
    version=st.integers(0, 10**18 - 1).map(str).map(ModelVersion),
    digest=st.sampled_from("abcdef").map(digest),
    why=st.sampled_from(Why),
    publisher=st.sampled_from(["", "12D3KooW"]),
    is_trusted=st.booleans(),
    holders=st.lists(st.tuples(st.just(PeerId("p")), st.just("i")), max_size=3).map(tuple),
)


@given(st.lists(PINS, max_size=3))
def test_pins_come_back_from_their_file(pins: list[Pin]) -> None:
    assert pins_from_json(pins_to_json(pins)) == pins


def test_pin_whose_digest_is_junk_makes_its_file_unreadable() -> None:
    junk = Pin(M, ModelVersion("1"), digest("b")[:-1], Why.FIRST)
    with pytest.raises(ConfigError, match=r"the digest of a pin is .*, expected"):
        pins_from_json(pins_to_json([junk]))


def test_away_holder_keeps_its_invite_s_vote_however_many_of_another_come_and_go() -> None:
    for restarts in (False, True):
        fleet = Fleet()
        fleet.replicas("A", at("1", "a"), invite="honest")
        fleet.settle()
        fleet.leaves("A")
        for number in range(2 * MAX_ABSENT):
            fleet.replicas(f"X{number}", at("1", "a"), invite="evil")
            fleet.leaves(f"X{number}")
        if restarts:
            fleet.restart()
        fleet.replicas("X", at("1", "b"), invite="evil")
        fleet.wait(ABSTAIN_S - 1)
        assert fleet.served() == "a"


def test_holders_that_are_away_are_bounded() -> None:
    fleet = Fleet()
    for number in range(3 * MAX_ABSENT):
        fleet.replicas(f"X{number}", at("1", "a"), invite=f"i{number % 2}")
        fleet.leaves(f"X{number}")
    (pin,) = fleet.owners.pins()
    assert [peer for peer, _ in pin.holders][-2:] == ["X190", "X191"]
    assert len(fleet.owners._models[M].versions[ModelVersion("1")].holders) == MAX_ABSENT


@pytest.mark.parametrize("is_away", [False, True])
def test_revoked_node_has_no_vote_any_more(is_away: bool) -> None:
    fleet = Fleet()
    fleet.replicas("X", at("1", "b"), invite="evil")
    fleet.settle()
    fleet.replicas("A", at("1", "a"), invite="honest")
    if is_away:
        fleet.leaves("X")
    assert fleet.served() == "b"
    assert fleet.owners.choice(M, ModelVersion("1")).startswith("none is served") is is_away
    fleet.leaves("X")
    fleet.owners.expel({"X"}, (), fleet.now_s)
    assert (fleet.served(), fleet.owners.choice(M, ModelVersion("1"))) == ("a", "")
    (pin,) = fleet.owners.pins()
    assert pin.holders == (("A", "honest"),)


def test_invite_that_is_revoked_loses_its_vote_and_others_keep_theirs() -> None:
    fleet = Fleet()
    fleet.replicas("A", at("1", "a"), invite="honest")
    for peer in "XY":
        fleet.replicas(peer, at("1", "a"), invite="evil")
    fleet.settle()
    fleet.leaves("A", "X", "Y")
    fleet.replicas("Z", at("1", "b"), invite="third")
    fleet.owners.expel((), {"evil"}, fleet.now_s)
    fleet.wait(KEEP_S - 1)
    assert fleet.served() == "a"
    fleet.wait(1)
    assert fleet.served() == "b"
