"""Heads of calls, statuses of errors, and the bucket of frames that come to nothing."""

from __future__ import annotations

import pytest
from http2_client import HEAD
from origins import ANYWHERE

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
from capamesh.router.grpc.heads import CallHeads
from capamesh.router.grpc.status import (
    Status,
    error_trailers,
    status_of,
)
from capamesh.router.http.calm import A_SECOND, MOST, Calm


def test_head_says_what_is_called_and_how_it_is_routed() -> None:
    head, time_s = CallHeads(ANYWHERE).read((*HEAD, (b"x-capamesh-policy", b"prequal")))
    assert (head.path, head.is_grpc, head.options.policy) == (dict(HEAD)[b":path"], True, "prequal")
    assert time_s is None
    assert head.refusal is None


def test_wish_that_is_none_is_a_refusal_with_the_text_of_http() -> None:
    head, _ = CallHeads(ANYWHERE).read((*HEAD, (b"x-capamesh-polizy", b"prequal")))
    assert isinstance(head.refusal, InvalidRequest)
    assert "did you mean X-Capamesh-Policy?" in head.refusal.message


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"123456789S", b"1.5S", b"-1S", b"1s"])
def test_time_that_is_none_is_refused(text: bytes) -> None:
    if text:
        with pytest.raises(InvalidRequest, match="1 to 8 digits"):
            CallHeads(ANYWHERE).read((*HEAD, (b"grpc-timeout", text)))
    else:
        assert CallHeads(ANYWHERE).read((*HEAD, (b"grpc-timeout", text)))[1] is None


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
    assert CallHeads(ANYWHERE).read(changed)[0].is_grpc is is_grpc


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
