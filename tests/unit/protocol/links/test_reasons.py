from __future__ import annotations

import pytest

from capamesh.protocol.errors import (
    CapameshError,
    Overloaded,
    ProtocolViolation,
    RunFailed,
    SizeRefused,
)
from capamesh.protocol.links.frames import HEADER_BYTES
from capamesh.protocol.links.hello import unpack_map
from capamesh.protocol.links.reasons import (
    MAX_AFTER_MS,
    MAX_ERROR_CHARS,
    error_frame,
    error_in,
    error_meta,
    goaway_frame,
    goaway_reason,
    loss_reason,
)
from capamesh.protocol.msgpack_codec import pack


def there(error: CapameshError) -> CapameshError:
    """Return what the peer makes of an error."""
    return error_in(error_frame(7, error)[HEADER_BYTES:])


def test_error_keeps_its_kind_its_words_and_its_load() -> None:
    error = RunFailed("the model failed")
    error.load = [1, 2]
    seen = there(error)
    assert type(seen) is RunFailed
    assert (seen.message, seen.load) == ("the model failed", [1, 2])


@pytest.mark.parametrize(
    ("hint_s", "seen_s"), [(0.0, 0.0), (0.5, 0.501), (1e6, MAX_AFTER_MS / 1000)]
)
def test_hint_when_to_come_again_is_rounded_up_and_bounded(hint_s: float, seen_s: float) -> None:
    seen = there(Overloaded("full", hint_s))
    assert isinstance(seen, Overloaded)
    assert seen.retry_after_s == seen_s


def test_size_that_is_refused_is_a_lack_of_room_to_routers_that_do_not_know_it() -> None:
    error = SizeRefused("too large now", 0.5)
    seen = there(error)
    assert type(seen) is SizeRefused
    assert seen.retry_after_s == 0.501
    assert unpack_map(error_meta(error), "ERROR")["code"] == Overloaded.code


@pytest.mark.parametrize("read", [error_in, goaway_reason])
def test_metadata_that_is_no_map_is_a_violation(read: object) -> None:
    assert callable(read)
    with pytest.raises(ProtocolViolation, match="not a map"):
        read(pack([]))


@pytest.mark.parametrize(
    ("error", "goaway", "is_greeted", "reason"),
    [
        (None, "", True, "the peer closed it"),
        (None, "upgrade", True, "the peer closed it: upgrade"),
        (OSError("reset"), "upgrade", False, "the connection was lost: reset: upgrade"),
        (None, "", False, "the peer closed it before its HELLO: it may not accept this member's"),
    ],
)
def test_lost_connection_says_what_is_known(
    error: Exception | None, goaway: str, is_greeted: bool, reason: str
) -> None:
    assert loss_reason(error, goaway, is_greeted=is_greeted).startswith(reason)


def test_words_of_a_peer_are_cut_and_plain() -> None:
    assert len(there(RunFailed("x" * (MAX_ERROR_CHARS + 1))).message) == MAX_ERROR_CHARS
    reason = goaway_reason(goaway_frame("x" * (MAX_ERROR_CHARS + 1))[HEADER_BYTES:])
    assert len(reason) == MAX_ERROR_CHARS
    assert "\x1b" not in goaway_reason(pack({"reason": "\x1b[31mred"}))
    assert goaway_reason(pack({"reason": 5})) == ""
    others = pack({"code": 3, "message": [], "after_ms": "soon"})
    assert error_in(others).message == error_in(pack({})).message
