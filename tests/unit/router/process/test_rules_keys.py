from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.process.rules_keys import read_rules
from capamesh.router.rules.constraints import Constraints
from capamesh.router.rules.model_rules import CacheRule, MirrorRule, ModelRules, RoutingRules


def read(text: str) -> RoutingRules:
    return read_rules(text.encode(), "rules.toml", ModelRules())


def test_every_key_is_read() -> None:
    rules = read("""
        [digits]
        policy = "p2c"
        weights = { "1" = 90, "2" = 10 }
        mirror = { version = "3", share = 0.1 }
        hedge = false
        retry = false
        max_price = 2
        regions = ["eu", "us"]
        device_kinds = ["cuda"]
        tenants = { "acme" = 3, "*" = 0.5 }
        cache = { ttl_s = 3600, shared = true }
    """)
    assert rules.of(ModelName("digits")) == ModelRules(
        policy="p2c",
        weights=((ModelVersion("1"), 90.0), (ModelVersion("2"), 10.0)),
        mirror=MirrorRule(ModelVersion("3"), 0.1),
        is_hedged=False,
        is_retried=False,
        constraints=Constraints(2.0, frozenset({"eu", "us"}), frozenset({"cuda"})),
        tenants=(("acme", 3.0), ("*", 0.5)),
        cache=CacheRule(3600.0, is_shared=True),
    )


def test_star_holds_for_all_and_a_models_own_table_replaces_it_key_by_key() -> None:
    rules = read("""
        [digits]
        max_price = 5.0
        ["*"]
        policy = "p2c"
        max_price = 1.0
        ["a model.2"]
    """)
    assert rules.of(ModelName("digits")) == ModelRules(policy="p2c", constraints=Constraints(5.0))
    assert rules.of(ModelName("other")) == ModelRules(policy="p2c", constraints=Constraints(1.0))
    assert rules.of(ModelName("a model.2")) == rules.every


DIGEST = "sha256-chunks:" + "0a" * 32
OF_M = [  # lines of the table of a model
    (
        "polcy = 'p2c'",
        "unknown key m.polcy (did you mean policy?); allowed keys are policy, weights,",
    ),
    ("policy = 'best'", "m.policy is 'best', expected one of affinity, cheapest, least-request, "),
    ("policy = 1", "m.policy is 1, expected text"),
    ("weights = {}", "m.weights is a table of 0 keys, expected a table of 1 to 1024"),
    ("weights = { 1 = -1 }", "m.weights.1 is -1, expected a number from 0 to 1000000"),
    ("weights = { 1 = nan }", "m.weights.1 is nan, expected a number from 0"),
    ("weights = { 1 = 0, 2 = 0 }", "m.weights are all 0, expected one above 0"),
    (
        "weights = { v1 = 1 }",
        "m.weights has the key 'v1', expected the digits of a version as text",
    ),
    ("mirror = { version = '3' }", "m.mirror.share is missing; add it"),
    (
        "mirror = { version = '3', share = 0 }",
        "m.mirror.share is 0, expected a number above 0 to 1",
    ),
    ("mirror = { version = '3', part = 1 }", "unknown key m.mirror.part; allowed keys are version"),
    ("cache = { ttl_s = 0 }", "m.cache.ttl_s is 0, expected a number above 0 to 2592000"),
    ("hedge = 1", "m.hedge is 1, expected true or false"),
    (f"hedge = {'9' * 100}", "m.hedge is a number of 333 bits, expected"),
    (f"hedge = {'9' * 5000}", "rules.toml is not TOML: "),
    ("max_price = -2", "m.max_price is -2, expected a number from 0"),
    ("regions = 'eu'", "m.regions is 'eu', expected a list of 1 to"),
    ("regions = []", "m.regions is a list of 0, expected a list of 1 to"),
    ("regions = ['eu', 'eu']", "m.regions has 'eu' 2 times; name it once"),
    ("regions = ['']", "m.regions[0] is '', expected text of 1 to"),
    (f"regions = {'[' * 9999}", "rules.toml is not TOML: "),
    ("device_kinds = [1]", "m.device_kinds[0] is 1, expected text of 1 to"),
    ("tenants = { acme = 0 }", "m.tenants.acme is 0, expected a number above 0"),
    ("tenants = { 'a b' = -1 }", 'm.tenants."a b" is -1, expected a number above 0'),
    ("digests = {}", "expected a table of 1 to 1024 entries"),
    ("digests = { 1 = 'sha256:00' }", "m.digests.1 is 'sha256:00', expected \"sha256-chunks:\" "),
    (f"digests = {{ v1 = '{DIGEST}' }}", "has the key 'v1', expected the digits of a version"),
    ("publishers = ['12D3KooW']", "m.publishers has '12D3KooW', expected publishers as"),
    ("publishers = []", "expected a list of 1 to 1024"),
]
FILES = [
    (f"['*']\ndigests = {{ 1 = '{DIGEST}' }}", "stands for all models"),
    ("['*']\nweights = { 1 = 1 }", '"*".weights stands for all models'),
    ("['*']\nmirror = { version = '1', share = 1 }", '"*".mirror stands for all'),
    ("'*' = 3", '"*" is 3, expected the table of a model'),
    ("[m", "rules.toml is not TOML: "),
    ("policy = 'p2c'", "policy is 'p2c', expected the table of a model"),
    ("['']", "it has the key '', expected text of 1 to 256"),
    (f"[{'n' * 300}]", "(300 characters), expected text of 1 to 256 characters"),
]


@pytest.mark.parametrize(
    ("text", "complaint"), [*((f"[m]\n{line}\n", said) for line, said in OF_M), *FILES]
)
def test_error_in_the_rules_is_named_with_its_place_and_what_is_allowed(
    text: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)) as refused:
        read(text)
    assert refused.value.message.startswith("rules.toml")


@given(
    st.sampled_from(
        ["policy", "weights", "mirror", "hedge", "max_price", "regions", "tenants", "x"]
    ),
    st.sampled_from(
        [
            "1",
            "-1",
            "true",
            "''",
            "'p2c'",
            "[]",
            "['a']",
            "[[1]]",
            "{}",
            "{1=1}",
            "nan",
            "1979-05-27",
        ]
    ),
)
def test_any_value_is_read_or_refused_as_a_setting(key: str, value: str) -> None:
    complaint = ""
    try:
        read(f"[m]\n{key} = {value}\n")
    except ConfigError as error:
        complaint = error.message
    assert not complaint or " m." in complaint
