"""Under which names an advert tells of models that a folder's scan refused."""

from __future__ import annotations

import pytest

from capamesh.node.models.refusals import keys_of
from capamesh.node.repository import Refused


@pytest.mark.parametrize(
    ("refused", "known", "expected"),
    [
        (Refused("m", "3", "r"), [], [("m", "3")]),
        (Refused("m", "", "r", ("10", "2")), [], [("m", "2"), ("m", "10")]),
        (Refused("m", "", "r", ("2",)), [("m", "1"), ("n", "7")], [("m", "1"), ("m", "2")]),
        (Refused("m", "", "r", ("2",)), [("m", "0")], [("m", "2")]),
        (Refused("a\x1b]b", "", "r"), [], [("a\ufffd]b", "0")]),
        (Refused("bad\udcff", "", "r"), [], [("bad?", "0")]),
        (Refused("x" * 300, "", "r"), [], [("x" * 256, "0")]),
    ],
)
def test_refusal_is_of_these_model_versions(
    refused: Refused, known: list[tuple[str, str]], expected: list[tuple[str, str]]
) -> None:
    assert keys_of(refused, known) == expected  # type: ignore[arg-type]  # plain texts do
