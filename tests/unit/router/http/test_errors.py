from __future__ import annotations

import json

import pytest

from capamesh.protocol.errors import (
    AdvertRejected,
    CapameshError,
    ClientError,
    LocalError,
    ModelFailed,
    NoEndpoint,
    Overloaded,
    PeerError,
    ShutOut,
    TooManyRequests,
    Unsatisfiable,
)
from capamesh.router.http.errors import error_response, status_of


def every(root: type[CapameshError] = CapameshError) -> list[type[CapameshError]]:
    return [root, *(found for child in root.__subclasses__() for found in every(child))]


def released(kind: type[CapameshError]) -> bool:
    return kind.__module__ == CapameshError.__module__


@pytest.mark.parametrize("kind", [kind for kind in every() if released(kind)])
def test_every_error_is_the_protocol_s_body_with_its_code(kind: type[CapameshError]) -> None:
    error = _made(kind)
    response = error_response(error)
    assert response.content_type == "application/json"
    assert json.loads(response.body) == {"error": error.message, "code": error.code}
    assert response.headers["X-Capamesh-Error"] == kind.code
    may_wait = response.status in {429, 503} and kind not in {Unsatisfiable, ModelFailed, ShutOut}
    assert response.headers.get("Retry-After") == ("1" if may_wait else None)


@pytest.mark.parametrize(
    ("hint_s", "said"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (4.2, "5")]
)
def test_hint_is_rounded_up_to_whole_seconds(hint_s: float, said: str) -> None:
    kinds = (Overloaded, TooManyRequests, NoEndpoint)
    for error in [kind("come again", hint_s) for kind in kinds]:
        assert error_response(error).headers["Retry-After"] == said


def test_new_error_gets_its_nearest_ancestor_s_status() -> None:
    class OddError(ClientError):
        code = "odd"

    class StrangeError(PeerError):
        code = "strange"

    class OwnError(LocalError):
        code = "own"

    assert [status_of(kind("x")) for kind in (OddError, StrangeError, OwnError)] == [400, 500, 500]


def _made(kind: type[CapameshError]) -> CapameshError:
    text = 'it said "no"\n\ud800\u20ac'
    return kind("field", text) if issubclass(kind, AdvertRejected) else kind(text)
