"""The body of an answer as it arrives: whole or not, bounded, and aligned for what reads it in place."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.client.arriving import ALIGNMENT, ArrivingBody
from capamesh.protocol.errors import TooLarge


def address(view: memoryview, offset: int) -> int:
    return np.frombuffer(view, np.uint8).__array_interface__["data"][0] + offset


@pytest.mark.parametrize("json_bytes", [1, 16, 77])
def test_raw_tensors_begin_at_an_aligned_address(json_bytes: int) -> None:
    body = ArrivingBody(2_000, str(json_bytes), 2_000)
    body.add(b"a" * 700)
    assert (body.is_whole, body.missing_bytes) == (False, 1_300)
    body.add(b"b" * 1_300)
    assert (body.is_whole, body.missing_bytes) == (True, 0)
    view = body.view()
    assert bytes(view) == b"a" * 700 + b"b" * 1_300
    assert not view.readonly
    assert address(view, json_bytes) % ALIGNMENT == 0


@pytest.mark.parametrize("json_bytes", [None, "", "-1", "x", "²", "9" * 40])
def test_header_that_is_no_length_moves_nothing(json_bytes: str | None) -> None:
    body = ArrivingBody(3, json_bytes, 3)
    body.add(b"abc")
    assert bytes(body.view()) == b"abc"


def test_body_of_unknown_length_grows_to_the_limit() -> None:
    body = ArrivingBody(None, "2", 5)
    body.add(b"abc")
    assert (body.is_whole, body.missing_bytes, bytes(body.view())) == (False, 0, b"abc")
    body.add(b"de")
    with pytest.raises(TooLarge, match="more than 5 bytes"):
        body.add(b"f")


def test_announced_length_is_the_most_that_is_taken() -> None:
    with pytest.raises(TooLarge, match="the answer has 6 bytes; the limit is 5"):
        ArrivingBody(6, None, 5)
    assert ArrivingBody(0, None, 5).is_whole
    body = ArrivingBody(2, None, 5)
    with pytest.raises(TooLarge, match="more than 2 bytes"):
        body.add(b"abc")
