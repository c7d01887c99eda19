"""What a proxy in front of a router asks for, and that none of it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificates import Authority
from hypothesis import given
from hypothesis import strategies as st

from capamesh.client import AsyncClient, Client
from capamesh.client.access import MAX_HEADERS, MAX_VALUE_CHARS, Access
from capamesh.protocol.errors import ConfigError

KEY = "Bearer s3cret"


def test_headers_are_beside_those_of_a_request_which_count_first() -> None:
    access = Access({"Authorization": KEY, "X-Team": "a"})
    assert access.with_own({"Content-Length": "0"}) == {
        "Authorization": KEY,
        "X-Team": "a",
        "Content-Length": "0",
    }
    assert access.with_own({"authorization": "own"}) == {"X-Team": "a", "authorization": "own"}
    own = {"Content-Length": "0"}
    assert Access().with_own(own) == own
    headers = {"Authorization": KEY}
    for shown in (access, Client(headers=headers), AsyncClient(headers=headers)):
        assert "s3cret" not in repr(shown)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content-Length": "1"}, "the header 'Content-Length' is the client's own"),
        ({"X-Capamesh-Tenant": "a"}, "is one of routing: give it as RoutingOptions"),
        ({"Idempotency-Key": "k1"}, "is of one request: give it as idempotency_key="),
        ({"a b": KEY}, "a header's name is 'a b'"),
        ({f"A: {KEY}": ""}, "a header's name is"),
        ({"X-Key": f"{KEY}\r\nX-Other: 1"}, "the value of the header 'X-Key' is no printable"),
        ({"X-Key": "s3crét"}, "the value of the header 'X-Key' is no printable"),
        ({"X-Key": 7}, "the value of the header 'X-Key' is no printable"),
        ({"X-Key": "s3cret" * 1000}, f"has 6000 characters; at most {MAX_VALUE_CHARS}"),
        ({f"X-{n}": KEY for n in range(MAX_HEADERS + 1)}, f"at most {MAX_HEADERS} are taken"),
    ],
)
def test_header_that_cannot_be_sent_is_refused_without_its_value(
    headers: dict[str, str], said: str
) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(ConfigError) as caught:
            make("http://host", headers=headers)
        assert said in caught.value.message
        if f"A: {KEY}" not in headers:
            assert "s3cr" not in caught.value.message


def test_file_that_is_no_authority_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=r"'.*ca.pem' cannot be used: No such file"):
        Access(ca=file)
    file.write_text("junk")
    with pytest.raises(ConfigError, match=r"'.*ca.pem' cannot be used: it holds no certificate"):
        Access(ca=str(file))


@given(st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=3))
def test_any_headers_are_taken_or_refused(headers: dict[str, str]) -> None:
    try:
        access = Access(headers)
    except ConfigError:
        return
    sent = access.with_own({})
    assert sent == headers
    assert all(
        "\n" not in name + value and "\r" not in name + value for name, value in sent.items()
    )


def test_key_goes_as_a_bearer_or_beside_what_a_proxy_has() -> None:
    assert Access(key="cm_x").with_own({}) == {"Authorization": "Bearer cm_x"}
    both = Access({"authorization": "Basic p"}, key="cm_x").with_own({})
    assert both == {"authorization": "Basic p", "X-API-Key": "cm_x"}
    assert "cm_x" not in repr(Access(key="cm_x"))
    with pytest.raises(ConfigError) as caught:
        Access(key="cm_\n")
    assert "cm_" not in caught.value.message


def test_certificate_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("client")
    _, other = Authority(tmp_path, "other").issue("other")
    Access(cert=(certificate, str(key)))
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    Access(cert=both)
    for cert in (certificate, (certificate, other), tmp_path / "gone.pem", (key, certificate)):
        with pytest.raises(ConfigError, match=r"the certificate '.*' .*cannot be used \("):
            Access(cert=cert)
