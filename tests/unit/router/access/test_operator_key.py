"""The operator's key: one a start, for its owner alone, and what it opens."""

from __future__ import annotations

import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from capamesh.protocol.errors import ConfigError, Forbidden, KeyExposed
from capamesh.router.access import operator_key
from capamesh.router.access.audience import Audience
from capamesh.router.access.keys import Verb
from capamesh.router.access.operator_key import KEY_FILE, OperatorKey, authorization_from
from capamesh.router.access.origin_check import OriginCheck, checked_host, checked_origin


def test_file_is_for_its_owner_alone_and_holds_256_bits(tmp_path: Path) -> None:
    OperatorKey.create(tmp_path)
    file = tmp_path / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(bytes.fromhex(file.read_text())) == 32
    assert [each.name for each in tmp_path.iterdir()] == [KEY_FILE]  # nothing is left of writing it


def test_last_key_stays_in_use_on_a_full_disk_and_without_one_nobody_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OperatorKey.create(tmp_path)
    authorization = authorization_from(tmp_path)

    def full(path: Path, _: bytes) -> None:
        raise ConfigError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(operator_key, "replace_private", full)
    again = OperatorKey.create(tmp_path)
    assert again.is_kept
    assert again.opens(authorization)
    (tmp_path / KEY_FILE).chmod(0o644)  # others could have read it
    for _ in range(2):
        unknown = OperatorKey.create(tmp_path)
        assert not unknown.is_kept
        assert not unknown.opens(authorization)
        (tmp_path / KEY_FILE).unlink(missing_ok=True)


def test_file_that_others_could_write_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / KEY_FILE).symlink_to(elsewhere)
    OperatorKey.create(tmp_path)
    assert elsewhere.read_text() == "mine"
    assert not (tmp_path / KEY_FILE).is_symlink()


def test_keys_other_than_the_key_itself_do_not_open() -> None:
    key = OperatorKey("secret")
    assert all(map(key.opens, ("Bearer secret", "bearer  secret ")))
    odd = ("Basic secret", "Bearer s\u00e9cret", "Bearer \udcff")
    assert not any(map(key.opens, ("", "secret", "Bearer", "Bearer secre", "Bearer secret2", *odd)))
    assert repr(OperatorKey("secret-text")) == "OperatorKey(secret)"


def test_file_that_holds_no_key_or_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    OperatorKey.create(tmp_path)
    for text in ("", "junk", "\u00e9" * 64, "a b" * 30):
        (tmp_path / KEY_FILE).write_text(text)
        with pytest.raises(ConfigError, match="holds no operator's key"):
            authorization_from(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(KeyExposed, match="chmod 600"):
        authorization_from(tmp_path)


def test_address_serves_what_its_audience_may_do() -> None:
    for verbs in ((), (Verb.INFER, Verb.READ), tuple(Verb)):
        assert all(audience.is_served(verbs) for audience in Audience)
    for verb in Verb:
        is_of_clients = verb in {Verb.INFER, Verb.JOBS}
        assert Audience.CLIENTS.is_served((verb,)) is is_of_clients
        assert Audience.OPERATORS.is_served((verb,)) is not is_of_clients
        assert Audience.ALL.is_served((verb,))


OWN = [
    *("", "127.0.0.1:8000", "[fd00::1]:8000", "[fe80::1%eth0]:8000", "Localhost.:9"),
    *("gpu.lan", "GPU.LAN:80", "a.example.org", "api.certified"),
]
STRANGE = [
    *("a.b.example.org", "example.org", "evil.example:8000", "127.0.0.1.evil.example"),
    *("localhost.evil.example", "router", "127.0.0.1:8000, evil.example"),
    *("evil.example@localhost", "evil.example@a.localhost", "evil.example, a.localhost"),
    *("[::1].evil.example", "2130706433", "0177.0.0.1", "127.0.0.1..", ":8000"),
]


@pytest.mark.parametrize(
    ("host", "is_own"), [*((each, True) for each in OWN), *((each, False) for each in STRANGE)]
)
def test_names_of_a_router(host: str, is_own: bool) -> None:
    check = OriginCheck(("gpu.lan", "*.example.org"), certificate_names=lambda: ("*.certified",))
    assert check.is_own(host) is is_own


def test_own_page_is_of_a_web_scheme_and_by_tls_of_no_other() -> None:
    for check, taken in (
        (OriginCheck(), {"http://localhost", "https://LOCALHOST"}),
        (OriginCheck(has_tls=True), {"https://LOCALHOST"}),
    ):
        for origin in ("http://localhost", "https://LOCALHOST", "app://localhost", "null"):
            with nullcontext() if origin in taken else pytest.raises(Forbidden):
                check.check("POST", "localhost", origin=origin)
    with pytest.raises(Forbidden):
        OriginCheck().check("POST", "", origin="null")


def test_names_of_strangers_are_taken_while_keys_are_asked_for() -> None:
    asks: list[bool] = []
    check = OriginCheck(asks_for_keys=lambda: bool(asks))
    with pytest.raises(Forbidden, match=r"--allow-host proxy\.example$"):
        check.check("GET", "proxy.example:80")
    asks.append(True)
    check.check("GET", "proxy.example:80")
    with pytest.raises(Forbidden, match=r"--allow-origin https://evil\.example to let it"):
        check.check("POST", "proxy.example", origin="https://evil.example")


def test_hosts_and_origins_that_may_be_allowed() -> None:
    for text in ("router.example", "*.example", "*", "10.0.0.1", "my_host"):
        assert checked_host(text) == text
    assert checked_origin("HTTP://App.example:81") == "http://app.example:81"
    for text in ("app.example", "https://app.example/", "https://a b", "*", "null"):
        with pytest.raises(ConfigError, match="is no origin"):
            checked_origin(text)
