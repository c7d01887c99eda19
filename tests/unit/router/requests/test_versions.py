"""Which requests are first sent to a version on trial, and to which."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import Draws

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.requests.split import NEWEST, VersionSplit

M, V1 = ModelName("m"), ModelVersion("1")


V1, V2, V3 = ModelVersion("1"), ModelVersion("2"), ModelVersion("3")
SPLIT = VersionSplit([(V1, 90.0), (V2, 10.0), (V3, 0.0)])
ALL = (V1, V2, V3)


@pytest.mark.parametrize(
    ("draw", "version"), [(0.0, V1), (0.899, V1), (0.9, V2), (0.999999, V2), (1.0, V2)]
)
def test_draw_falls_to_a_version_by_weight(draw: float, version: ModelVersion) -> None:
    assert SPLIT.pick(ALL, Draws(draw)) == version


def test_newest_version_is_asked_without_a_hosted_one_of_weight() -> None:
    assert SPLIT.pick((V3,), Draws()) == NEWEST
    assert SPLIT.pick((), Draws()) == NEWEST
    assert VersionSplit().pick(ALL, Draws()) == NEWEST


@given(st.dictionaries(st.sampled_from(ALL), st.floats(0, 1e6)), st.text(), st.integers(0, 9))
def test_pick_is_hosted_and_has_weight(
    weights: dict[ModelVersion, float], key: str, seed: int
) -> None:
    hosted = (V2, V3)
    picked = VersionSplit(weights.items()).pick(hosted, random.Random(seed), key=key)
    possible = {version for version in hosted if weights.get(version, 0) > 0}
    assert picked in (possible or {NEWEST})
