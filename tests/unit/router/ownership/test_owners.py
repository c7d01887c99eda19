"""Who owns a model: which file a version is, and which versions are trusted, as nodes come, change and go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_fakes import advert, offer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import ModelOffer
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.publishing import sign
from capamesh.router.ownership import owners as owners_module
from capamesh.router.ownership.owners import Owners
from capamesh.router.ownership.pins import Pin, Why, pins_from_json, pins_to_json
from capamesh.router.ownership.version import ABSTAIN_S, GRACE_S, KEEP_S, MAX_ABSENT, SETTLE_S
from capamesh.router.rules.model_rules import ModelRules, RoutingRules

M, V1 = ModelName("m"), ModelVersion("1")
ALICE, MALLORY = Identity.generate(), Identity.generate()
OF_ALICE = ModelRules(publishers=frozenset({ALICE.peer_id}))


def digest(letter: str) -> str:
    return "sha256-chunks:" + letter * 64


def at(version: str, letter: str, signed_by: Identity | None = None) -> ModelOffer:
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

    def offers(self, peer: str, *offers: ModelOffer, invite: str = "i") -> None:
        self.owners.heard(advert(peer, models=offers), invite, self.now_s)

    def go(self, *steps: str | float) -> None:
        """Let time pass, and nodes come and go.

        "A 1a 2b": A has version 1 with the file a and version 2 with b. "A/x 1a": its invite is x; else they are all of one.
        "A 1a!": it is signed by Alice, and 1a? by Mallory. "-A": it leaves.
        """
        for step in steps:
            if not isinstance(step, str):
                self.now_s += step
                self.owners.tick(self.now_s)
            elif step.startswith("-"):
                self.owners.left(PeerId(step[1:]), self.now_s)
            else:
                name, *words = step.split()
                peer, _, invite = name.partition("/")
                by = {"!": ALICE, "?": MALLORY}
                found = [at(word[0], word[1], by.get(word[2:])) for word in words]
                self.offers(peer, *found, invite=invite or "i")

    def restart(self) -> None:
        """Forget all but the pins, as they are written to a file."""
        pins = pins_from_json(pins_to_json(self.owners.pins()))
        self.owners = Owners(rules=self.rules)
        self.owners.remember(pins, self.now_s)

    def served(self, version: str = "1") -> str:
        """Return the letter of the digest that is served, "-" for none."""
        version = ModelVersion(version)
        found = [each for each in "abcdef" if self.owners.admits(M, version, digest(each))]
        assert len(found) <= 1
        return "".join(found) or "-"

    def trusted(self) -> str:
        """Return the trusted versions."""
        numbers = map(ModelVersion, "0123456789")
        return "".join(each for each in numbers if self.owners.is_trusted(M, each))

    def news(self) -> list[str]:
        return [each.event for each in self.owners.take_news()]


# which file a version is


@pytest.mark.parametrize("invites", ["ii", "ij"])
def test_two_nodes_with_different_files_are_never_mixed_and_the_one_known_before_is_served(
    invites: str,
) -> None:
    fleet = Fleet()
    mine, other = (
        f"{peer}/{invite} {what}"
        for peer, invite, what in zip("AB", invites, ("1a", "1b"), strict=True)
    )
    fleet.go(SETTLE_S, mine, SETTLE_S, other)
    assert (fleet.served(), fleet.news()) == ("a", ["model_digest_ignored"])
    fleet.go(other, SETTLE_S)
    assert (fleet.served(), fleet.news(), fleet.owners.contested()) == ("a", [], 1)
    (shown,) = fleet.owners.described()
    told = [shown[name] for name in ("digest", "reason", "standing", "nodes")]
    assert told == [digest("a"), "first_seen", "trusted", 1]
    assert shown["others"] == [{"digest": digest("b"), "nodes": 1, "invites": 1, "peers": ["B"]}]
    fleet.go("-A", KEEP_S - 1)  # which is no reason to take another invite's
    assert fleet.served() == ("b" if invites == "ii" else "a")


@pytest.mark.parametrize("other", ["i", "j"])
def test_router_that_starts_serves_none_of_two_files_until_more_invites_have_one_or_rules_name_it(
    other: str,
) -> None:
    fleet = Fleet()
    fleet.go("A 1a")
    assert fleet.served() == "a"
    fleet.go(f"B/{other} 1b", SETTLE_S, 10 * KEEP_S)
    assert (fleet.served(), fleet.owners.contested(), fleet.owners.pins()) == ("-", 1, [])
    assert "capamesh model trust m" in fleet.owners.withheld(M, V1)
    fleet.take(ModelRules(digests={V1: digest("b")}))
    assert fleet.served() == "b"
    fleet.take(ModelRules())
    fleet.go("C/third 1a")
    assert fleet.served() == ("b" if other == "i" else "a")


def test_file_of_one_invite_that_came_first_gives_way_to_that_of_two() -> None:
    fleet = Fleet()
    fleet.go(SETTLE_S, "X/first 1b", KEEP_S, "A/one 1a")
    assert fleet.served() == "b"
    fleet.news()
    fleet.go("B/two 1a")
    assert (fleet.served(), fleet.news()) == ("a", ["model_digest_served", "model_digest_ignored"])
    (shown,) = fleet.owners.described()
    assert (shown["nodes"], shown["invites"]) == (2, 2)


def test_file_replaced_on_most_holders_is_rolled_out_and_the_operator_is_reported() -> None:
    fleet = Fleet()
    fleet.go("A 1a", "B 1a", "C 1a", SETTLE_S, "A 1b")
    assert fleet.served() == "a"
    fleet.news()
    fleet.go("B 1b")
    assert (fleet.served(), fleet.news()) == ("b", ["model_digest_served", "model_digest_ignored"])
    fleet.go("C 1b")
    assert fleet.owners.contested() == 0


def test_host_of_the_file_for_a_while_cannot_replace_it_while_the_others_are_away() -> None:
    fleet = Fleet()
    fleet.go("A/honest 1a", "X/evil 1a", SETTLE_S, "-A", "X/evil 1b", ABSTAIN_S - 1)
    assert fleet.served() == "a"
    fleet.go("A/honest 1a", ABSTAIN_S)
    assert fleet.served() == "a"


# rules and signatures


def test_rules_name_a_digest_and_no_other_is_served_even_if_nobody_has_it() -> None:
    fleet = Fleet(ModelRules(digests={V1: digest("c")}))
    fleet.go("A 1a")
    assert (fleet.served(), fleet.owners.admits(M, V1, digest("a"))) == ("c", False)
    assert "by the router's rules" in fleet.owners.withheld(M, V1)
    fleet.take(ModelRules())
    assert fleet.served() == "a"


def test_publisher_s_signature_beats_who_was_first_and_stays_when_its_nodes_are_away() -> None:
    fleet = Fleet(publishers=(ALICE.peer_id,))
    fleet.go(*(f"X{number}/i{number} 1b" for number in range(5)), SETTLE_S, "A/late 1a!")
    assert (fleet.served(), fleet.trusted()) == ("a", "1")
    (shown,) = fleet.owners.described()
    assert (shown["reason"], shown["publisher"]) == ("signed", ALICE.peer_id)
    fleet.go("-A", 10 * KEEP_S)
    assert fleet.served() == "a"


def test_publishers_that_a_renewed_membership_names_count_from_then_on() -> None:
    fleet = Fleet()
    fleet.go("X 1b", SETTLE_S, "A/late 1a!")
    assert fleet.served() == "b"
    fleet.owners.take_publishers((ALICE.peer_id,), fleet.now_s)
    assert fleet.served() == "a"  # though no node says anything anew
    fleet.go("-A")
    fleet.owners.take_publishers((), fleet.now_s)
    assert (fleet.served(), fleet.owners._signed) == ("a", {})  # as it was pinned


def test_publisher_that_the_rules_come_to_name_has_signed_what_is_there_already() -> None:
    fleet = Fleet()
    fleet.go("A 1a!", "B 1a! 2b", SETTLE_S)
    fleet.take(OF_ALICE)
    assert (fleet.served(), fleet.served("2")) == ("a", "-")
    (shown, _) = fleet.owners.described()
    told = [shown[name] for name in ("reason", "publisher", "standing")]
    assert told == ["signed", ALICE.peer_id, "trusted"]
    fleet.take(ModelRules(publishers=frozenset({MALLORY.peer_id})))
    assert fleet.served() == "-"


@pytest.mark.parametrize(
    "changes",
    [
        {"signed": at("1", "b", MALLORY).signed},
        {"version": ModelVersion("2")},
        {"digest": digest("c")},
        {"signed": at("1", "b", ALICE).signed[:32] + bytes(64)},
    ],
    ids=["another key", "another version", "another digest", "junk"],
)
def test_signature_that_is_not_good_counts_for_nothing(changes: dict[str, object]) -> None:
    fleet = Fleet(publishers=(ALICE.peer_id,))
    fleet.go("A 1a", SETTLE_S)
    fleet.offers("X", replace(at("1", "b", ALICE), **changes), invite="evil")  # type: ignore[arg-type]
    assert (fleet.served(), fleet.trusted()) == ("a", "1")


def test_flood_of_bad_signatures_costs_one_verification_an_advert(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "capamesh.router.ownership.publishers.is_signed",
        lambda _signed, model, *_: asked.append(model),
    )
    bad = at("1", "a", ALICE).signed[:32] + bytes(64)
    names = [ModelName(f"m{number}") for number in range(100)]
    Fleet(publishers=(ALICE.peer_id,)).offers(
        "X", *(replace(at("1", "a"), name=name, signed=bad) for name in names)
    )
    assert asked == ["m0"]


def test_rules_that_name_publishers_let_nothing_else_be_served() -> None:
    fleet = Fleet(OF_ALICE, (MALLORY.peer_id,))
    fleet.go("A 1a", "X 1b?")
    assert fleet.served() == "-"
    assert "none has signed it" in fleet.owners.withheld(M, V1)
    fleet.go("B 1c!")
    assert (fleet.served(), fleet.trusted()) == ("c", "1")


# which versions are trusted


def test_new_version_on_most_nodes_of_the_one_operator_is_trusted() -> None:
    fleet = Fleet()
    fleet.go("A 1a", "B 1a", "C 1a", SETTLE_S, "A 1a 2b")
    assert fleet.trusted() == "1"
    fleet.news()
    fleet.go("B 2b")
    assert (fleet.trusted(), fleet.news()) == ("12", ["model_version_trusted"])


def test_most_of_all_invites_are_a_quorum_where_they_are_two_at_least() -> None:
    fleet = Fleet()
    fleet.go("A/one 1a", SETTLE_S, "B/two 2b")
    assert fleet.trusted() == "1"
    fleet.go("C/three 2b")
    assert fleet.trusted() == "12"


def test_others_wait_for_their_place_when_those_with_the_trusted_version_are_away() -> None:
    fleet = Fleet()
    fleet.go("A/honest 1a", SETTLE_S, "X/evil 9b", "-A", KEEP_S - 1)
    assert fleet.trusted() == "1"
    assert "does not trust yet" in fleet.owners.withheld(M, ModelVersion(""))
    fleet.go("A2/honest 2c", 1.0)
    assert fleet.trusted() == "12"


def test_word_of_a_publisher_or_the_rules_leaves_all_else_to_those_who_name_it() -> None:
    fleet = Fleet(publishers=(ALICE.peer_id,))
    fleet.go("X 9b", SETTLE_S)
    assert fleet.trusted() == "9"
    fleet.go("A 1a!")
    assert fleet.trusted() == "1"
    assert not fleet.owners.may_try(M, ModelVersion("9"))
    assert [each["standing"] for each in fleet.owners.described()] == ["trusted", "by name only"]


# bounds


def test_one_invite_can_bring_so_many_versions_and_others_are_unhurt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owners_module, "MAX_OF_INVITE", 5)
    fleet = Fleet()
    fleet.offers("X", *(at(str(number), "b") for number in range(2, 20)), invite="evil")
    assert repr(fleet.owners) == "Owners(5 versions of 1 models)"
    fleet.go("A/honest 1a")
    assert fleet.served() == "a"
    fleet.go("-X")
    fleet.offers("Y", *(at(str(number), "b") for number in range(30, 50)), invite="evil")
    assert (fleet.served(), len(fleet.owners.pins())) == ("a", 6)


# properties

STEPS = st.lists(
    st.tuples(
        st.sampled_from("XYZ"),
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
    fleet.go("A/honest 1a", SETTLE_S)
    for peer, what, wait_s in steps:
        fleet.go(f"{peer}/evil {what}", wait_s)
        assert (fleet.served(), fleet.trusted()) == ("a", "1")


@given(STEPS, st.booleans())
def test_digest_served_is_at_most_one_and_was_brought_by_somebody(
    steps: list[tuple[str, str, float]], is_restarted: bool
) -> None:
    fleet = Fleet()
    brought: set[str] = set()
    for peer, what, wait_s in steps:
        brought.add(what)
        fleet.go(f"{peer}/{peer} {what}", wait_s)
        for version in "19":
            served = fleet.served(version)
            assert served == "-" or version + served in brought
    before = fleet.served("1"), fleet.served("9"), fleet.trusted()
    if is_restarted:
        fleet.restart()
        assert (fleet.served("1"), fleet.served("9"), fleet.trusted()) == before


@given(st.permutations("ABCX"), st.booleans())
def test_order_in_which_nodes_are_heard_at_the_start_does_not_matter(
    order: list[str], is_denied: bool
) -> None:
    """Where one invite alone denies a file, none is served, and its version is not taken."""
    fleet, others = Fleet(), "honest" if is_denied else "too"
    said = {"A": "A/honest 1a", "X": "X/evil 1b 9b", "B": f"B/{others} 1a", "C": f"C/{others} 1a"}
    fleet.go(*(said[peer] for peer in order), SETTLE_S)
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
    junk = Pin(M, V1, digest("b")[:-1], Why.FIRST)
    with pytest.raises(ConfigError, match=r"the digest of a pin is .*, expected"):
        pins_from_json(pins_to_json([junk]))


@pytest.mark.parametrize("restarts", [False, True])
def test_away_holder_keeps_its_invite_s_vote_however_many_of_another_come_and_go(
    restarts: bool,
) -> None:
    fleet = Fleet()
    fleet.go("A/honest 1a", SETTLE_S, "-A")
    for number in range(2 * MAX_ABSENT):
        fleet.go(f"X{number}/evil 1a", f"-X{number}")
    if restarts:
        fleet.restart()
    fleet.go("X/evil 1b", ABSTAIN_S - 1)
    assert fleet.served() == "a"


def test_holders_that_are_away_are_bounded() -> None:
    fleet = Fleet()
    for number in range(3 * MAX_ABSENT):
        fleet.go(f"X{number}/i{number % 2} 1a", f"-X{number}")
    (pin,) = fleet.owners.pins()
    assert [peer for peer, _ in pin.holders][-2:] == ["X190", "X191"]
    assert len(fleet.owners._models[M].versions[V1].holders) == MAX_ABSENT


@pytest.mark.parametrize("is_away", [False, True])
def test_revoked_node_has_no_vote_any_more(is_away: bool) -> None:
    fleet = Fleet()
    fleet.go("X/evil 1b", SETTLE_S, "A/honest 1a", *["-X"] * is_away)
    assert fleet.served() == "b"
    assert fleet.owners.choice(M, V1).startswith("none is served") is is_away
    fleet.go("-X")
    fleet.owners.expel({"X"}, (), fleet.now_s)
    assert (fleet.served(), fleet.owners.choice(M, V1)) == ("a", "")
    (pin,) = fleet.owners.pins()
    assert pin.holders == (("A", "honest"),)


def test_invite_that_is_revoked_loses_its_vote_and_others_keep_theirs() -> None:
    fleet = Fleet()
    fleet.go("A/honest 1a", "X/evil 1a", "Y/evil 1a", SETTLE_S, "-A", "-X", "-Y", "Z/third 1b")
    fleet.owners.expel((), {"evil"}, fleet.now_s)
    fleet.go(KEEP_S - 1)
    assert fleet.served() == "a"
    fleet.go(1.0)
    assert fleet.served() == "b"
