"""Which names are a router's, and what `--allow-host` and `--allow-origin` take."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from capamesh.protocol.errors import ConfigError, Forbidden
from capamesh.router.access.origin_check import OriginCheck, checked_host, checked_origin


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("", True),
        ("127.0.0.1:8000", True),
        ("[fd00::1]:8000", True),
        ("Localhost.:9", True),
        ("gpu.lan", True),
        ("GPU.LAN:80", True),
        ("a.example.org", True),
        ("a.b.example.org", False),
        ("example.org", False),
        ("api.certified", True),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("router", False),
        ("127.0.0.1:8000, evil.example", False),
        ("evil.example@localhost", False),
        ("evil.example@a.localhost", False),
        ("evil.example, a.localhost", False),
        ("[::1].evil.example", False),
        ("[fe80::1%eth0]:8000", True),
        ("2130706433", False),
        ("0177.0.0.1", False),
        ("127.0.0.1..", False),
        (":8000", False),
    ],
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


@pytest.mark.parametrize("text", ["router.example", "*.example", "*", "10.0.0.1", "my_host"])
def test_hosts_that_may_be_allowed(text: str) -> None:
    assert checked_host(text) == text


@pytest.mark.parametrize(
    "text", ["app.example", "https://app.example/", "https://a b", "*", "null"]
)
def test_origins_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="is no origin"):
        checked_origin(text)
    assert checked_origin("HTTP://App.example:81") == "http://app.example:81"
