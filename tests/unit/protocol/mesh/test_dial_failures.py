"""What an operator is told of a dial that failed."""

from __future__ import annotations

import errno
import socket

import pytest

from capamesh.protocol.mesh.dial_failures import (
    MOST_CHARS,
    MOST_ERRORS,
    SOMEBODY_ELSE,
    reason_of_failure,
)


class _AllFailedError(Exception):
    """An error of several others, as libp2p has it."""

    def __init__(self, errors: list[Exception]) -> None:
        super().__init__("all failed")
        self.errors = errors


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def test_reason_is_the_operating_system_s_however_deep_it_lies() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Error connecting to ('127.0.0.1', 9)")
    group = ExceptionGroup("all attempts failed", [refused])
    stream = _caused(OSError("all attempts to connect failed"), group)
    error = _caused(
        Exception("unable to connect"), _AllFailedError([_caused(Exception("s"), stream)])
    )
    assert reason_of_failure(error) == "connection refused"


def test_reason_without_an_operating_system_s_is_the_innermost_error_s_words() -> None:
    error = _caused(Exception("outside"), ValueError("the peer is \x1b[2Janother"))
    assert reason_of_failure(error) == "the peer is \ufffd[2Janother"


def test_listener_with_another_key_than_its_address_names_is_told_as_somebody_else() -> None:
    noise = Exception("peer id does not correspond to the received pubkey: remote_peer=12D3a")
    error = _caused(
        Exception("unable to connect"), _AllFailedError([_caused(Exception("s"), noise)])
    )
    assert reason_of_failure(error) == SOMEBODY_ELSE


def test_reason_is_short_and_errors_that_hold_each_other_end() -> None:
    first, second = Exception("x" * 1000), Exception("y" * 1000)
    first.__cause__, second.__cause__ = second, first
    assert reason_of_failure(first) == "y" * MOST_CHARS
    deep = Exception("last")
    for number in range(2 * MOST_ERRORS):
        deep = _caused(Exception(str(number)), deep)
    assert reason_of_failure(deep) == str(MOST_ERRORS)


def test_name_that_is_not_found_is_told_so() -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert reason_of_failure(error) == "name or service not known"


@pytest.mark.parametrize("error", [Exception(), Exception(" ")])
def test_error_without_words_has_a_reason(error: Exception) -> None:
    assert reason_of_failure(error) == "it did not answer as a member does"
