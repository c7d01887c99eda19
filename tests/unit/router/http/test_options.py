"""What a request's X-Capamesh headers ask for, and what is said of those that ask for nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from capamesh.protocol.errors import InvalidRequest
from capamesh.router.http.options import options_of
from capamesh.router.policies import POLICIES
from capamesh.router.requests.call import RoutingOptions
from capamesh.router.rules.constraints import Constraints

NAMES = ("Policy", "Affinity", "Tenant", "Max-Price", "Region", "Device", "Nodes", "Explain")
HEADERS = [f"X-Capamesh-{name}" for name in NAMES]


def asked(**headers: str) -> tuple[RoutingOptions, bool]:
    """Read headers named without their prefix, with _ for -."""
    named = {f"x-capamesh-{name.replace('_', '-')}": value for name, value in headers.items()}
    return options_of(CIMultiDict({"Host": "x", **named}))


def test_every_header_has_its_place_whatever_its_case() -> None:
    options, is_explained = asked(
        policy="p2c",
        AFFINITY=" chat 7 ",
        tenant="batch",
        Max_Price="1.5e1",
        region="eu, us,eu",
        device="cuda",
        nodes="A,B,",
        explain="1",
    )
    assert options == RoutingOptions(
        Constraints(15.0, frozenset({"eu", "us"}), frozenset({"cuda"}), frozenset({"A", "B"})),
        "p2c",
        "chat 7",
        "batch",
    )
    assert is_explained


@pytest.mark.parametrize(
    ("control", "wanted"),
    [
        ("no-cache", RoutingOptions(max_age_s=0.0)),
        ("No-Cache", RoutingOptions(max_age_s=0.0)),
        ("no-store", RoutingOptions(may_be_kept=False)),
        ("max-age=60", RoutingOptions(max_age_s=60.0)),
        ("max-age=0, must-revalidate", RoutingOptions(max_age_s=0.0)),
        ("max-age=7, no-cache,no-store", RoutingOptions(max_age_s=0.0, may_be_kept=False)),
        ("max-age", RoutingOptions(max_age_s=0.0)),
        ("max-age=-1", RoutingOptions(max_age_s=0.0)),
        ("max-age=1e9", RoutingOptions(max_age_s=0.0)),
        ("max-age=" + "9" * 5000, RoutingOptions(max_age_s=0.0)),
    ],
)
def test_cache_control_says_how_old_an_answer_may_be(control: str, wanted: RoutingOptions) -> None:
    assert options_of(CIMultiDict({"Cache-Control": control})) == (wanted, False)


def test_price_is_a_plain_number_and_a_flag_one_of_few_words() -> None:
    prices = {"0": 0.0, "007": 7.0, "1.": 1.0, ".5": 0.5, "2E-3": 0.002, "1e+3": 1000.0}
    assert {each: asked(max_price=each)[0].constraints.max_price for each in prices} == prices
    flags = {"1": True, "TRUE": True, "0": False, "False": False}
    assert {each: asked(explain=each)[1] for each in flags} == flags


PRICES = ["-1", "-0", "+1", "nan", "inf", "Infinity", "1e999", "1_000", "0x10", "1,5", "1 2", "."]
PRICES += ["\u0663", "\uff11", "1e", "e1", "\udcff", "9" * 400, "free"]
REFUSED = {
    ("Max-Price", "a number from 0 is expected, for a million rows"): PRICES,
    ("Explain", "1 or 0 is expected"): ["yes", "2", "on", "-1", "truer", "\udcff"],
    ("Policy", f"the policies are {', '.join(sorted(POLICIES))}"): ["best", "P2C", "p2c,random", "x" * 200],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "wanted", "value"), [(*said, each) for said, all_ in REFUSED.items() for each in all_]
)
def test_value_that_is_none_is_refused_with_what_is_expected(
    name: str, wanted: str, value: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(**{name.replace("-", "_"): value})
    assert caught.value.message == f"X-Capamesh-{name} is {value[:80]!r}; {wanted}"


@pytest.mark.parametrize("name", HEADERS)
def test_value_that_is_too_long_is_refused_with_its_beginning(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        options_of(CIMultiDict({name: "7" * 1025}))
    assert caught.value.message == (
        f"{name} is '{'7' * 80}'… of 1025 characters; at most 1024 are expected"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("X-Capamesh-Tennant", "did you mean X-Capamesh-Tenant?"),
        ("x-capamesh-regions", "did you mean X-Capamesh-Region?"),
        ("X-CAPAMESH-NODE", "did you mean X-Capamesh-Nodes?"),
        ("X-Capamesh-Timeout-Ms", "it is a parameter of the request, in its JSON: timeout, in microseconds"),
        ("X-Capamesh-Deadline", "it is a parameter of the request, in its JSON: timeout, in microseconds"),
        ("X-Capamesh-Priority", "it is a parameter of the request, in its JSON: priority"),
        ("X-Capamesh-", "did you mean X-Capamesh-Nodes?"),
        ("X-Capamesh-" + "q" * 99, f"there are {', '.join(sorted(HEADERS))}"),
    ],
)  # fmt: skip
def test_unknown_header_is_refused_with_the_one_that_was_meant(name: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        options_of(CIMultiDict({"X-Capamesh-Tenant": "a", name: "1"}))
    assert caught.value.message == f"there is no header {name[:80]!r}; {said}"


@given(st.dictionaries(st.sampled_from(HEADERS), st.text(max_size=20)))
def test_any_headers_are_read_or_refused_by_name(headers: dict[str, str]) -> None:
    try:
        options, _ = options_of(CIMultiDict(headers))
    except InvalidRequest as error:
        said = error.message
    else:
        assert 0 <= options.constraints.max_price <= math.inf
        assert options.policy in {"", *POLICIES}
        return
    assert len([name for name in headers if said.startswith(f"{name} is ")]) == 1
    assert len(said) < 700
