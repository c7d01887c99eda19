"""Keys of clients: their form, what they may do, and what a router does while it cannot read them."""

from __future__ import annotations

import math

import pytest

from capamesh.protocol.errors import CapameshError, Forbidden, Unauthenticated
from capamesh.protocol.schema import Mismatch, read
from capamesh.router.access.keys import (
    TRUSTED_S,
    Key,
    KeyRing,
    Scope,
    Verb,
    check_model,
    check_verb,
    digest_of,
    id_of,
    new_text,
)

OTHER = "cm_aaaaaaaa_" + 32 * "0"


def made(
    scope: Scope | None = None, *, letter: str = "k", expires_s: float | None = None
) -> tuple[Key, str]:
    text = new_text(lambda _: letter)
    return Key(id_of(text), digest_of(text), "lab", scope or Scope(), expires_s), text


def code_of(ring: KeyRing, text: str) -> str:
    try:
        ring.find(text)
    except CapameshError as error:
        return error.code
    return "taken"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cm_",
        OTHER[:-1],
        OTHER + "0",
        OTHER.upper(),
        "xx" + OTHER[2:],
        OTHER[:-1] + "é",
        OTHER + "\n",
    ],
)
def test_text_of_another_form_is_no_key(text: str) -> None:
    assert id_of(text) == ""
    ring = KeyRing()
    ring.take([made()[0]], 0.0, 0.0)
    assert code_of(ring, text) == "unauthenticated"


def test_right_id_with_another_secret_is_unknown() -> None:
    ring, (key, text) = KeyRing(), made()
    ring.take([key], 0.0, 0.0)
    assert code_of(ring, text[:-1] + "0") == "unauthenticated"
    with pytest.raises(Unauthenticated) as caught:
        ring.find(text[:-1] + "0")
    assert key.id not in caught.value.message


def test_key_ends_at_its_time() -> None:
    ring, (key, text) = KeyRing(), made(expires_s=100.0)
    told: list[float] = []
    ring.on_change(lambda: told.append(0))
    ring.take([key], 0.0, 99.0)
    ring.tick(99.9)
    assert (code_of(ring, text), len(told)) == ("taken", 1)
    ring.tick(100.0)
    assert (code_of(ring, text), len(told)) == ("unauthenticated", 2)
    ring.tick(1000.0)
    assert len(told) == 2


def test_known_keys_go_on_for_ten_minutes_without_the_store_and_unknown_ones_cannot_be_judged() -> (
    None
):
    ring, (key, text) = KeyRing(), made()
    told: list[int] = []
    ring.on_change(lambda: told.append(0))
    ring.take([key], 0.0, 0.0)
    ring.failed(1.0)
    ring.failed(2.0)
    assert len(told) == 2
    assert (code_of(ring, text), code_of(ring, OTHER)) == ("taken", "keys_unavailable")
    ring.failed(TRUSTED_S)
    assert code_of(ring, text) == "taken"
    ring.failed(math.nextafter(TRUSTED_S, math.inf))
    assert (code_of(ring, text), len(told)) == ("keys_unavailable", 3)
    ring.unchanged(TRUSTED_S + 5)
    assert (code_of(ring, text), code_of(ring, OTHER), len(told)) == ("taken", "unauthenticated", 4)


def test_verbs_and_models_of_a_key() -> None:
    key, _ = made(Scope(verbs=(Verb.INFER,), models=("digits", "face*")))
    assert [key.may_run(name) for name in ("digits", "digits2", "face", "faces", "iris", "")] == [
        True,
        False,
        True,
        True,
        False,
        False,
    ]
    check_verb(key, Verb.READ, Verb.INFER)
    with pytest.raises(Forbidden, match="may do infer, and this takes read or metrics"):
        check_verb(key, Verb.READ, Verb.METRICS)
    with pytest.raises(Forbidden) as caught:
        check_model(key, "iris")
    assert not {"iris", "digits", "face"} & set(caught.value.message.split())
    reader, _ = made(Scope(verbs=(Verb.READ,)))
    with pytest.raises(Forbidden):
        check_model(reader, "digits")
    assert made(Scope())[0].may_run("any")


@pytest.mark.parametrize(
    "values",
    [
        {"verbs": []},
        {"verbs": ["fly"]},
        {"max_priority": 0},
        {"max_priority": 256},
        {"models": [""]},
        {"models": ["m"] * 257},
        {"rate": 3},
    ],
)
def test_scope_that_is_none_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(Mismatch):
        read(values, Scope)
