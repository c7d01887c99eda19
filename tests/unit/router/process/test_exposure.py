"""The rule on who may reach a router's HTTP, and what its log warns of where it is told to open it all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capamesh.protocol.errors import ConfigError
from capamesh.router.process.exposure import is_of_this_machine, require_safe, warning
from capamesh.router.settings import RouterSettings

EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing listens here
FILE = Path("file.pem")
TLS: dict[str, Any] = {"tls_certificate": FILE, "tls_key": FILE}
MUTUAL: dict[str, Any] = {**TLS, "tls_client_ca": FILE}


def at(host: str, **settings: Any) -> RouterSettings:
    return RouterSettings(Path(), http_host=host, **settings)


@pytest.mark.parametrize(
    ("settings", "asks_for_keys", "why", "warned"),
    [
        ({}, False, "no key is asked for and nothing is encrypted", "nothing on the way is"),
        ({}, True, "nothing is encrypted", "read all that is on the way, keys included"),
        (TLS, False, "no key is asked for", "run any model"),
        (TLS, True, "", ""),
        (MUTUAL, False, "", ""),
        ({"is_insecure": True}, False, "", "nothing on the way is encrypted"),
    ],
)
def test_address_beyond_this_machine_needs_tls_and_a_proof_and_the_log_warns_of_what_lacks(
    settings: dict[str, Any], asks_for_keys: bool, why: str, warned: str
) -> None:
    require_safe(at("127.0.0.1", **settings), asks_for_keys=asks_for_keys)
    assert not warning(at("localhost", **settings), "127.0.0.1", asks_for_keys=asks_for_keys)
    exposed = at(EVERYWHERE, **settings)
    found = warning(exposed, EVERYWHERE, asks_for_keys=asks_for_keys)
    assert warned in found["what_they_can_do"] if warned else found == {}
    if not why:
        require_safe(exposed, asks_for_keys=asks_for_keys)
        return
    with pytest.raises(ConfigError) as refusal:
        require_safe(exposed, asks_for_keys=asks_for_keys)
    assert refusal.value.message == (
        f"clients of other machines could come in at --http 0.0.0.0:8000, where {why}. Either listen on this machine alone (--http"
        " 127.0.0.1:8000), if need be with a proxy before it; or give a certificate and keys (--tls-cert and --tls-key of"
        " `capamesh router run`, `capamesh keys create`); or say by --insecure that only those you trust can reach it"
    )


def test_address_is_of_this_machine_if_nobody_else_can_connect() -> None:
    assert all(
        map(is_of_this_machine, ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"))
    )
    beyond = ("", EVERYWHERE, "::", "10.0.0.5", "fe80::1", "192.0.2.1")  # the first: all addresses
    assert not any(map(is_of_this_machine, beyond))
