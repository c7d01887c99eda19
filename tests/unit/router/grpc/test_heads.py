"""Heads of calls and their blocks against the package hpack, statuses of errors, and what waits unsent."""

from __future__ import annotations

import hpack
import pytest
from hpack.exceptions import HPACKError
from http2_client import HEAD
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    KeyUsed,
    LocalError,
    ModelNotFound,
    NoEndpoint,
    Overloaded,
    RunFailed,
    SequenceLost,
    TooLarge,
    TooManyRequests,
    Unsatisfiable,
)
from capamesh.router.access.origin_check import ANY_HOST, OriginCheck
from capamesh.router.grpc.arriving import ArrivingMessage
from capamesh.router.grpc.header_blocks import TABLE_BYTES, BadBlock, HeaderDecoder, encoded
from capamesh.router.grpc.heads import CallHeads
from capamesh.router.grpc.http2 import MAX_HEADER_BYTES
from capamesh.router.grpc.status import Status, error_trailers, status_of
from capamesh.router.grpc.unsent import UnsentAnswers
from capamesh.router.http.body_budget import BodyBudget
from capamesh.router.http.calm import A_SECOND, MOST, Calm


def test_head_says_what_is_called_and_how_it_is_routed() -> None:
    more = ((b"x-capamesh-policy", b"prequal"), (b"grpc-timeout", b""))
    head, time_s = CallHeads(OriginCheck((ANY_HOST,))).read((*HEAD, *more))
    assert (head.path, head.is_grpc, head.options.policy) == (dict(HEAD)[b":path"], True, "prequal")
    assert (time_s, head.refusal) == (None, None)


def test_wish_that_is_none_is_a_refusal_with_the_text_of_http() -> None:
    head, _ = CallHeads(OriginCheck((ANY_HOST,))).read((*HEAD, (b"x-capamesh-polizy", b"prequal")))
    assert isinstance(head.refusal, InvalidRequest)
    assert "did you mean X-Capamesh-Policy?" in head.refusal.message


@pytest.mark.parametrize("text", [b"1", b"S", b"123456789S", b"1.5S", b"-1S", b"1s"])
def test_time_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="1 to 8 digits"):
        CallHeads(OriginCheck((ANY_HOST,))).read((*HEAD, (b"grpc-timeout", text)))


@pytest.mark.parametrize(
    ("name", "value", "is_grpc"),
    [
        (b"content-type", b"application/grpc+proto", True),
        (b"content-type", b"application/grpc;x=1", True),
        (b"content-type", b"application/grpc-web", False),
        (b"content-type", b"application/json", False),
        (b":method", b"GET", False),
    ],
)
def test_calls_are_posts_of_grpc(name: bytes, value: bytes, is_grpc: bool) -> None:
    changed = tuple((key, value if key == name else of) for key, of in HEAD)
    assert CallHeads(OriginCheck((ANY_HOST,))).read(changed)[0].is_grpc is is_grpc


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest(""), Status.INVALID_ARGUMENT),
        (ModelNotFound(""), Status.NOT_FOUND),
        (TooLarge(""), Status.RESOURCE_EXHAUSTED),
        (TooManyRequests("", 1.0), Status.RESOURCE_EXHAUSTED),
        (Overloaded("", 1.0), Status.UNAVAILABLE),
        (Draining(""), Status.UNAVAILABLE),
        (NoEndpoint(""), Status.UNAVAILABLE),
        (KeyUsed(""), Status.ALREADY_EXISTS),
        (SequenceLost(""), Status.ABORTED),
        (DeadlineExceeded(""), Status.DEADLINE_EXCEEDED),
        (RunFailed(""), Status.INTERNAL),
        (LocalError(""), Status.INTERNAL),
    ],
)
def test_errors_have_their_status(error: CapameshError, status: Status) -> None:
    assert status_of(error) is status


def test_error_is_told_with_its_text_its_code_and_when_to_come_again() -> None:
    assert dict(error_trailers(Overloaded("voll", 2.5))) == {
        b"grpc-status": b"14",
        b"grpc-message": b"voll",
        b"x-capamesh-error": b"overloaded",
        b"grpc-retry-pushback-ms": b"3000",
    }
    assert b"grpc-retry-pushback-ms" not in dict(error_trailers(Unsatisfiable("")))


def test_calm_is_lost_by_frames_that_come_to_nothing_and_won_by_time_and_work() -> None:
    calm = Calm(0.0)
    assert all(calm.spend(0.0) for _ in range(int(MOST)))
    assert not calm.spend(0.0)
    assert [calm.spend(3 / A_SECOND) for _ in range(3)] == [True, True, False]
    calm.earn()
    assert calm.spend(3 / A_SECOND)
    calm = Calm(0.0)
    calm.earn(10**9)  # no more than so much can be saved
    assert sum(calm.spend(0.0) for _ in range(10_000)) == MOST


names = st.sampled_from(
    [b":path", b"te", b"content-type", b"x-a", b"x-" + b"n" * 130, b"grpc-timeout"]
)
values = st.one_of(st.binary(max_size=12), st.sampled_from([b"", b"/a/b", b"v" * 200, b"w" * 3000]))
fields = st.lists(st.tuples(names, values, st.booleans()), max_size=6)


@given(st.lists(st.tuples(fields, st.sampled_from([None, 0, 60, 300, TABLE_BYTES])), max_size=6))
def test_blocks_say_what_hpack_has_written(
    blocks: list[tuple[list[tuple[bytes, bytes, bool]], int | None]],
) -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder()
    for headers, table_bytes in blocks:
        if table_bytes is not None:
            encoder.header_table_size = table_bytes
        block = encoder.encode(headers)
        expected = tuple((name, value) for name, value, _ in headers)
        for _ in range(1 if any(not each[2] for each in headers) else 2):
            assert decoder.decode(block).fields == expected


@given(st.lists(st.one_of(st.binary(max_size=30), st.just(encoded(HEAD))), max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_what_hpack_reads(blocks: list[bytes]) -> None:
    decoder, other = HeaderDecoder(), hpack.Decoder(MAX_HEADER_BYTES)
    for block in blocks:
        try:
            expected = tuple((bytes(name), bytes(of)) for name, of in other.decode(block, raw=True))
        except HPACKError:
            with pytest.raises(BadBlock):
                decoder.decode(block)
            return
        assert decoder.decode(block).fields == expected


@given(st.lists(st.tuples(names, values), max_size=6))
def test_blocks_that_are_written_use_no_table(headers: list[tuple[bytes, bytes]]) -> None:
    decoder = hpack.Decoder()
    headers.insert(0, (b":status", b"200"))
    for _ in range(2):
        assert decoder.decode(encoded(headers), raw=True) == headers
    assert not decoder.header_table.dynamic_entries


def test_list_that_is_too_long_is_told_apart() -> None:
    decoder = HeaderDecoder()
    decoder.decode(b"\x40\x03x-a\x7f\x81\x0e" + b"v" * 1920)
    with pytest.raises(BadBlock) as caught:
        decoder.decode(b"\xbe" * 9)
    assert caught.value.is_too_long


@pytest.mark.parametrize(
    ("headers", "is_sound"),
    [
        ([*HEAD, (b"content-length", b"12")], True),
        ([*HEAD, (b"content-length", b"12"), (b"content-length", b"12")], True),
        ([*HEAD, (b"content-length", b"12"), (b"content-length", b"13")], False),
        ([*HEAD, (b"content-length", b"-1")], False),
        ([*HEAD, (b"content-length", b"1" * 19)], False),
        ([*HEAD, (b"x", b" y")], False),
        ([*HEAD, (b"x", b"y\t")], False),
        ([*HEAD, (b"x", b"")], True),
        ([*HEAD, (b"", b"y")], False),
        ([*HEAD, (b":protocol", b"y")], False),
        ([(b":method", b"CONNECT"), (b":authority", b"a:1")], True),
        ([(b":method", b"CONNECT"), (b":authority", b"a:1"), (b":path", b"/")], False),
    ],
)
def test_heads_are_what_rfc_9113_has_them(
    headers: list[tuple[bytes, bytes]], is_sound: bool
) -> None:
    assert HeaderDecoder().decode(encoded(headers)).is_request is is_sound


@pytest.fixture
def budget() -> BodyBudget:
    return BodyBudget(2**26, 2**20, clock=lambda: 0.0)


def test_answers_are_charged_while_they_wait(budget: BodyBudget) -> None:
    unsent = UnsentAnswers(budget, lambda: None)
    for left_bytes, used_bytes in ((100, 100), (50, 100), (300, 300), (0, 0), (7, 7)):
        assert unsent.has(left_bytes)
        assert budget.used_bytes == used_bytes
    unsent.drop()
    assert budget.used_bytes == 0


def test_client_is_stuck_when_nothing_has_moved_between_two_looks(budget: BodyBudget) -> None:
    unsent = UnsentAnswers(budget, lambda: None)
    found = [unsent.is_stuck()]
    for left_bytes in ((100,), (60,), (90,), (0, 10)):  # at the third more waits, and none was sent
        for each in left_bytes:
            unsent.has(each)
        found.append(unsent.is_stuck())
    assert found == [False, False, False, True, False]


def test_client_may_send_what_has_room_and_no_more(budget: BodyBudget) -> None:
    first, taken = ArrivingMessage(budget, 2**20, lambda _: None, lambda: None), []
    second = ArrivingMessage(budget, 2**20, taken.append, lambda: None)
    assert first.begin()
    assert first.put(memoryview(bytes(2**19))) == 2**19
    first.settle()
    assert second.begin()
    assert second.put(memoryview(bytes(2**20 + 1))) == 2**20
    second.settle()
    assert (sum(taken), second.is_waiting, second.left_bytes) == (0, True, 0)
    assert second.owed_bytes == 2**20
    first.drop()
    assert (sum(taken), second.is_waiting, second.owed_bytes) == (2**20, False, 0)
    assert second.arrived()
    assert (budget.used_bytes, budget.arriving_bytes) == (2**20, 0)
    budget.let_go(2**20)
    assert budget.used_bytes == 0
