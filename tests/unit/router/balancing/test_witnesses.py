"""Whose word is enough against a request."""

from __future__ import annotations

import pytest

from capamesh.protocol.ids import PeerId
from capamesh.router.balancing.witnesses import Witness, are_enough


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
