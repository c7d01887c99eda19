from __future__ import annotations

from capamesh.protocol.errors import InvalidRequest, Overloaded
from capamesh.router.page.failures import Failures


def test_failures_of_a_model_with_one_code_are_one_entry_with_the_newest_text() -> None:
    now_s = 0.0
    failures = Failures(clock=lambda: now_s)
    failures.note("m", Overloaded("first"))
    failures.note("n", InvalidRequest("bad"))
    now_s = 4.0
    failures.note("m", Overloaded("second\x1b[31m" + "x" * 999))
    now_s = 5.0
    assert failures.body() == [
        {
            "model": "m",
            "code": "overloaded",
            "count": 2,
            "error": ("second\ufffd[31m" + "x" * 999)[:300],
            "age_s": 1,
        },
        {"model": "n", "code": "invalid_request", "count": 1, "error": "bad", "age_s": 5},
    ]


def test_oldest_entry_gives_way() -> None:
    failures = Failures(clock=lambda: 0.0, most=2)
    for model in ("a", "b", "a", "c"):
        failures.note(model, Overloaded())
    assert [each["model"] for each in failures.body()] == ["c", "a"]
