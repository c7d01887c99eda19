"""How tests are called: `test_<subject>_<what it does>`, so that a report of failures reads as sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
PRONOUNS = (
    "a an the it its he she they this that these those what who whom whose which whatever whoever"
    " whomever nobody nothing somebody something"
)
ADVERBS = "when where how why whether however only once never here there very well so then"
PREPOSITIONS = (
    "of without in at on with by from to after before between among up over under below beyond during"
    " until since"
)
CONJUNCTIONS = "as while if because and but or"
NO_SUBJECT = frozenset(f"{PRONOUNS} {ADVERBS} {PREPOSITIONS} {CONJUNCTIONS}".split())
"""Words that do not lead to a subject. Numbers and quantifiers do: no, every, each, one, two, many, more, both."""
TEST = re.compile(r"^ *(?:async )?def test_([a-z0-9]+)(\w*)", re.MULTILINE)


def badly_named(text: str) -> Iterator[str]:
    """Yield the tests of a module whose names do not begin with their subject."""
    for first, rest in TEST.findall(text):
        if first in NO_SUBJECT:
            yield f"test_{first}{rest}"


def test_names_begin_with_their_subject() -> None:
    found = {
        f"{path.relative_to(TESTS)}: {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in badly_named(path.read_text("utf-8"))
    }
    assert found == set(), "name the subject first: test_<subject>_<what it does>"


def test_names_without_a_subject_are_found() -> None:
    text = "def test_what_is():\n    ...\n\nasync def test_of_two():\n    ...\n\ndef test_two_are():\n    ..."
    assert list(badly_named(text)) == ["test_what_is", "test_of_two"]
