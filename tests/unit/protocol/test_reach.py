"""How far inside a network an address lies, and what a member may therefore be made to dial."""

from __future__ import annotations

import pytest

from capamesh.protocol.reach import Inside, innermost_to_dial, inside_of


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("8.8.8.8", Inside.GLOBAL),
        ("10.1.2.3", Inside.PRIVATE),
        ("100.64.0.1", Inside.PRIVATE),
        ("fd00::1", Inside.PRIVATE),
        ("169.254.169.254", Inside.LINK_LOCAL),
        ("fe80::1", Inside.LINK_LOCAL),
        ("127.0.0.1", Inside.LOOPBACK),
        ("::1", Inside.LOOPBACK),
        ("::ffff:127.0.0.1", Inside.LOOPBACK),
        ("::ffff:169.254.169.254", Inside.LINK_LOCAL),
        ("64:ff9b::7f00:1", Inside.LOOPBACK),
        ("2002:7f00:1::", Inside.LOOPBACK),
        ("0.0.0.0", Inside.NOWHERE),  # noqa: S104 - it is not bound
        ("224.0.0.1", Inside.NOWHERE),
        ("example.org", None),
        ("127.1", None),
    ],
)
def test_address_lies_where_its_registry_says(host: str, inside: Inside | None) -> None:
    assert inside_of(host) is inside


@pytest.mark.parametrize(
    ("own", "outward", "inside"),
    [
        (["127.0.0.1", "127.0.0.1"], "10.0.0.5", Inside.LOOPBACK),
        (["10.0.0.5", "10.0.0.5"], "10.0.0.5", Inside.PRIVATE),
        (["10.0.0.5", "127.0.0.1"], "10.0.0.5", Inside.PRIVATE),
        (["203.0.114.5"], "10.0.0.5", Inside.GLOBAL),
        (["router.example.org"], "172.18.0.2", Inside.PRIVATE),
        (["router.example.org"], "8.8.4.4", Inside.GLOBAL),
        (["router.example.org"], "", Inside.LOOPBACK),
        ([], "8.8.4.4", Inside.LOOPBACK),
    ],
)
def test_member_dials_no_further_inside_than_it_is_reached_itself(
    own: list[str], outward: str, inside: Inside
) -> None:
    assert innermost_to_dial(own, outward) is inside
