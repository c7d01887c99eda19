"""Writes and reads the outcome of a call with an idempotency key, of which one worker tells another by the main process. Pure.

The channel is private and both ends are one installation; what does not fit is a bug, and ends in an error for whoever asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.errors import CapameshError, KeyUsed, from_wire
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import decode_answer, encode_answer
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.cache.entry import REPEATED, Entry, Layouts
from capamesh.router.policies.request_shape import RequestShape
from capamesh.router.requests.key_claims import Kept
from capamesh.router.rules.constraints import ANYWHERE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.tensors import Limits
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.requests.call import Outcome
    from capamesh.router.requests.key_claims import Verdict

MOST_TOLD_BYTES: Final = 8 * 2**20
"""The largest answer that is passed on: half of a message of the channel."""


def error_told(error: CapameshError) -> dict[str, Any]:
    """Return an error as it is told."""
    retry_after_s = float(getattr(error, "retry_after_s", 0.0))
    return {"code": error.code, "message": error.message, "retry_after_s": retry_after_s}


def answer_told(outcome: Outcome, now_s: float) -> dict[str, Any]:
    """Return an answer as it is told, or the error that it is too large; `now_s` is on the clock of entries."""
    meta, body = encode_answer(outcome.answer)
    whole = b"".join(body)
    if len(whole) > MOST_TOLD_BYTES:
        text = (
            f"the request with this idempotency key was answered with {len(whole)} bytes, of which workers pass on"
            f" {MOST_TOLD_BYTES}; use another key to run it again"
        )
        return error_told(KeyUsed(text))
    entry, served = outcome.entry, outcome.picker.served
    return {
        "model": served.model,
        "version": served.version,
        "peer": outcome.peer,
        "age_s": 0.0 if entry is None else max(0.0, now_s - entry.stored_s),
        "meta": meta,
        "body": whole,
    }


def verdict_of(
    told: Mapping[str, Any], balancer: Balancer, limits: Limits, now_s: float
) -> Verdict:
    """Return what another worker has told; None: nothing, and the call is to be run here."""
    if not told:
        return None
    if "code" in told:
        return from_wire(told["code"], told["message"], told["retry_after_s"])
    try:
        served = balancer.served(ModelName(told["model"]), ModelVersion(told["version"]))
        answer = decode_answer(told["meta"], memoryview(told["body"]), limits)
    except CapameshError as error:
        return error.with_traceback(None)
    peer, stored_s = PeerId(told["peer"]), now_s - told["age_s"]
    entry = Entry(b"", answer, Layouts().of(answer), peer, None, stored_s, REPEATED)
    shape = RequestShape(served.model, served.version, 0)
    return Kept(entry, RequestPicker(served, ANYWHERE, shape))
