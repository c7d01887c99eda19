"""Which router is asked, what a proxy before it and its routing are told, and that no secret of these is shown."""

from __future__ import annotations

import math
import ssl
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from certificates import Authority
from hypothesis import given
from hypothesis import strategies as st

import capamesh.client
from capamesh.client import AsyncClient, Client, RoutingOptions, errors
from capamesh.client.access import MAX_HEADERS, MAX_VALUE_CHARS, Access
from capamesh.client.address import RouterAddress
from capamesh.client.stream_wire import StreamWire
from capamesh.client.sync_stream import SyncStream
from capamesh.protocol.errors import (
    CapameshError,
    ClientError,
    ConfigError,
    InvalidRequest,
    LinkLost,
    PeerError,
)
from capamesh.protocol.ids import PeerId
from capamesh.router.http.options import options_of
from capamesh.router.rules.constraints import Constraints

if TYPE_CHECKING:
    from pathlib import Path

KEY = "Bearer s3cret"


# the router


def test_url_is_taken_apart_and_shown_whole() -> None:
    for url, whole in (
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("router:8000", "http://router:8000"),
        ("https://host/mesh/", "https://host:443/mesh"),
        (" http://[::1]:8000 ", "http://[::1]:8000"),
    ):
        assert RouterAddress.parse(url).url == RouterAddress.parse(whole).url == whole


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "names no host"),
        ("ftp://host", "'ftp' is neither http nor https"),
        ("http://host:99999", "range"),
        ("http://user@host", "a user name and password do not belong in it: give them as a header"),
        ("https://me:s3cret@host/mesh", ""),
        ("me:s3cret@host", ""),
        ("http://s3cret@", ""),
        ("http://a:s3cret@b@host?c", ""),
        ("http://host/?a=1", "query"),
        ("http://ho st", "blanks"),
    ],
)
def test_invalid_url_is_refused_with_the_reason_and_without_its_password(
    url: str, why: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RouterAddress.parse(url)
    assert why in caught.value.message
    assert "s3cret" not in caught.value.message


@given(st.text())
def test_any_text_is_an_address_or_refused(url: str) -> None:
    try:
        address = RouterAddress.parse(url)
    except ConfigError:
        return
    assert RouterAddress.parse(address.url) == address


# headers, keys and certificates


def test_headers_are_beside_those_of_a_request_which_count_first() -> None:
    headers = {"Authorization": KEY, "X-Team": "a"}
    access, own = Access(headers), {"Content-Length": "0"}
    assert access.with_own(own) == {**headers, **own}
    assert access.with_own({"authorization": "own"}) == {"X-Team": "a", "authorization": "own"}
    assert Access().with_own(own) == own
    assert Access(key="cm_x").with_own({}) == {"Authorization": "Bearer cm_x"}
    keyed = Access({"authorization": "Basic p"}, key="cm_x")
    assert keyed.with_own({}) == {"authorization": "Basic p", "X-API-Key": "cm_x"}
    for shown in (access, keyed, Client(headers=headers), AsyncClient(headers=headers)):
        assert "s3cret" not in repr(shown)
        assert "cm_x" not in repr(shown)


def test_header_that_cannot_be_sent_is_refused_without_its_value() -> None:
    unprintable = "the value of the header 'X-Key' is no printable"
    for headers, said in (
        ({"Content-Length": "1"}, "the header 'Content-Length' is the client's own"),
        ({"X-Capamesh-Tenant": "a"}, "is one of routing: give it as RoutingOptions"),
        ({"Idempotency-Key": "k1"}, "is of one request: give it as idempotency_key="),
        ({"a b": KEY}, "a header's name is 'a b'"),
        ({f"A: {KEY}": ""}, "a header's name is"),
        ({"X-Key": f"{KEY}\r\nX-Other: 1"}, unprintable),
        ({"X-Key": "s3crét"}, unprintable),
        ({"X-Key": 7}, unprintable),
        ({"X-Key": "s3cret" * 1000}, f"has 6000 characters; at most {MAX_VALUE_CHARS}"),
        ({f"X-{n}": KEY for n in range(MAX_HEADERS + 1)}, f"at most {MAX_HEADERS} are taken"),
    ):
        for make in (Client, AsyncClient):
            with pytest.raises(ConfigError) as caught:
                make("http://host", headers=headers)
            assert said in caught.value.message
            assert f"A: {KEY}" in headers or "s3cr" not in caught.value.message
    with pytest.raises(ConfigError) as caught:
        Access(key="cm_\n")
    assert "cm_" not in caught.value.message


@given(st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=3))
def test_any_headers_are_taken_or_refused(headers: dict[str, str]) -> None:
    try:
        sent = Access(headers).with_own({})
    except ConfigError:
        return
    assert sent == headers
    assert not {"\n", "\r"} & set("".join(sent) + "".join(sent.values()))


def test_file_that_is_no_authority_or_certificate_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=r"'.*ca.pem' cannot be used: No such file"):
        Access(ca=file)
    file.write_text("junk")
    with pytest.raises(ConfigError, match=r"'.*ca.pem' cannot be used: it holds no certificate"):
        Access(ca=str(file))
    certificate, key = Authority(tmp_path).issue("client")
    _, other = Authority(tmp_path, "other").issue("other")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    Access(cert=(certificate, str(key)))
    Access(cert=both)
    for cert in (certificate, (certificate, other), tmp_path / "gone.pem", (key, certificate)):
        with pytest.raises(ConfigError, match=r"the certificate '.*' .*cannot be used \("):
            Access(cert=cert)


@pytest.mark.parametrize(
    "on_write",
    [
        ssl.SSLSyscallError(5, "[SYS] unknown error"),
        BrokenPipeError(32, "Broken pipe"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
    ids=repr,
)
def test_refused_certificate_is_told_though_writing_fails_first(on_write: OSError) -> None:
    """The router has refused it and closed before anything was written."""
    alert = "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required"

    def refuse(*_: object, error: OSError = on_write) -> NoReturn:
        raise error

    recv = partial(refuse, error=ssl.SSLError(1, alert))
    sock: Any = SimpleNamespace(settimeout=id, sendall=refuse, recv=recv)
    plan: Any = SimpleNamespace(wait_s=1.0, path="/")
    stream = SyncStream(plan, plan)
    stream._wire, stream._sock = StreamWire("https://router", 1024), sock
    stream.send(b"the beginning")
    with pytest.raises(LinkLost, match="give one that the router's authority has signed"):
        stream.until(lambda: False)


# routing


def test_every_option_is_what_the_router_understands() -> None:
    options = RoutingOptions(
        tenant="acme",
        policy="p2c",
        affinity="user 7",
        regions=("eu", "us"),
        devices=["cpu"],
        nodes=("12D3KooWa",),
        max_price=0.1,
        is_explained=True,
    )
    wishes, is_explained = options_of(options.headers())
    assert (wishes.tenant, wishes.policy, wishes.affinity) == ("acme", "p2c", "user 7")
    assert wishes.constraints == Constraints(
        0.1, frozenset({"eu", "us"}), frozenset({"cpu"}), frozenset({PeerId("12D3KooWa")})
    )
    assert is_explained
    assert RoutingOptions().headers() == {}
    assert RoutingOptions(max_price=0).headers() == {"X-Capamesh-Max-Price": "0.0"}
    assert options_of(RoutingOptions(max_price=1e-7).headers())[0].constraints.max_price == 1e-7


def test_option_that_a_header_cannot_hold_is_refused() -> None:
    for options, said in (
        ({"tenant": "a\r\nX-Evil: 1"}, "tenant is 'a.*printable ASCII"),
        ({"policy": " p2c"}, "policy is ' p2c'"),
        ({"affinity": "größe"}, "affinity is"),
        ({"regions": "eu"}, r"regions is the text 'eu'; give a list: \['eu'\]"),
        ({"regions": ("a,b",)}, "regions has 'a,b'; names without commas"),
        ({"nodes": ("",)}, "nodes has ''"),
        ({"max_price": -1}, "max_price is -1; give a number from 0"),
        ({"max_price": math.nan}, "max_price is nan"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            RoutingOptions(**options).headers()


# what is imported from the client


def kinds_of(kind: type[CapameshError]) -> set[type[CapameshError]]:
    return {kind}.union(*(kinds_of(each) for each in kind.__subclasses__()))


def test_each_error_that_a_router_can_answer_is_exported() -> None:
    told = {
        each.__name__
        for each in kinds_of(ClientError) | kinds_of(PeerError)
        if each.__module__ == CapameshError.__module__
    }
    assert told <= set(errors.__all__) <= set(capamesh.client.__all__)


@pytest.mark.pure  # a compiled class has no text
def test_all_that_is_exported_is_explained() -> None:
    for name in capamesh.client.__all__:
        each = getattr(capamesh.client, name)
        assert vars(each).get("__doc__") if isinstance(each, type) else True, name
