"""Reads an inference request's parameters: Triton's names and units. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, MAX_PRIORITY
from capamesh.protocol.links.sequence_mark import MAX_SEQUENCE_CHARS, SequenceMark

TIMEOUT = "timeout"
"""The time the caller allows, in microseconds; 0 is as good as none."""
PRIORITY = "priority"
"""1 is the highest; 0 is the default."""
SEQUENCE_ID = "sequence_id"
"""The sequence that a request of a stateful model belongs to; 0 and "" are none."""
SEQUENCE_START = "sequence_start"
SEQUENCE_END = "sequence_end"


def time_allowed_s(parameters: Mapping[str, object], longest_s: float) -> float:
    """Return the seconds that a request may take; raise `InvalidRequest` for a value that is no time."""
    timeout_us = parameters.get(TIMEOUT)
    if timeout_us is None:
        return longest_s
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
        raise InvalidRequest(
            f"parameter {TIMEOUT} is {timeout_us!r}: whole microseconds are expected"
        )
    return min(timeout_us / 1e6, longest_s) if timeout_us else longest_s


def priority_of(parameters: Mapping[str, object]) -> int:
    """Return a call's priority, lower first; raise `InvalidRequest` for a value that is none."""
    priority = parameters.get(PRIORITY)
    if priority is None:
        return DEFAULT_PRIORITY
    if (
        isinstance(priority, bool)
        or not isinstance(priority, int)
        or not 0 <= priority <= MAX_PRIORITY
    ):
        raise InvalidRequest(
            f"parameter {PRIORITY} is {priority!r}: 1 (the highest) to {MAX_PRIORITY} or 0 (the default,"
            f" which is {DEFAULT_PRIORITY}) is expected"
        )
    return priority or DEFAULT_PRIORITY


def sequence_of(parameters: Mapping[str, object]) -> SequenceMark | None:
    """Return the sequence that a request belongs to; raise `InvalidRequest` for what names none."""
    key = parameters.get(SEQUENCE_ID)
    is_start, is_end = parameters.get(SEQUENCE_START), parameters.get(SEQUENCE_END)
    if not key:
        if is_start or is_end:
            raise InvalidRequest(
                f"a request with {SEQUENCE_START} or {SEQUENCE_END} needs a {SEQUENCE_ID}"
            )
        return None
    is_id = (isinstance(key, int) and not isinstance(key, bool) and 0 < key < 2**64) or (
        isinstance(key, str) and len(key) <= MAX_SEQUENCE_CHARS
    )
    if not is_id or not isinstance(key, int | str):
        raise InvalidRequest(
            f"parameter {SEQUENCE_ID} is {key!r:.80}: a number from 1 to 2**64 - 1, or a text of at most"
            f" {MAX_SEQUENCE_CHARS} characters, is expected"
        )
    for name, value in ((SEQUENCE_START, is_start), (SEQUENCE_END, is_end)):
        if value is not None and not isinstance(value, bool):
            raise InvalidRequest(f"parameter {name} is {value!r:.80}: true or false is expected")
    return SequenceMark(key, bool(is_start), bool(is_end))
