"""Scenarios: what the files say, what they must not say, and what follows from them."""

from __future__ import annotations

import pytest

from capamesh.protocol.errors import ConfigError
from capamesh.simulation.scenario import Fault, FaultKind, NodeGroup, Rhythm
from capamesh.simulation.scenario_file import load_scenario
from capamesh.simulation.shipped import shipped_names, shipped_scenario

PLAIN = """
title = "two nodes"
duration_s = 10.0
load = 0.5
[[node]]
name = "n"
count = 2
[[model]]
name = "m"
profile = [[1, 0.01]]
[[request]]
name = "r"
model = "m"
"""


def test_short_file_means_the_defaults() -> None:
    scenario = load_scenario(PLAIN, "plain")
    assert scenario.nodes == (NodeGroup("n", 2),)
    assert scenario.regions == ("local",)
    assert (scenario.routers, scenario.warm_up_s, scenario.has_gate) == (1, 0.0, True)
    assert scenario.capacity_per_s == pytest.approx(200.0)
    assert scenario.arrivals_per_s == pytest.approx(100.0)


def test_capacity_counts_speed_batches_rows_and_antagonists() -> None:
    text = (
        PLAIN.replace("count = 2", "count = 2\nslowness = 2.0")
        .replace("[[1, 0.01]]", "[[1, 0.01], [8, 0.02]]\nbatch_rows = 8")
        .replace('model = "m"', 'model = "m"\nrows = 4')
        .replace(
            "[[model]]",
            "[node.antagonist]\nfactor = 4.0\nperiod_s = 1.0\nshare = 0.5\nnodes_share = 0.5\n[[model]]",
        )
    )
    scenario = load_scenario(text, "dense")
    antagonist = scenario.nodes[0].antagonist
    assert antagonist is not None
    assert (antagonist.rhythm, antagonist.rate) == (Rhythm.MARKOV, 0.8125)
    # 8 rows in 20 ms are 400 rows a second; 2 nodes of half the speed; 4 rows a request
    assert scenario.capacity_per_s == pytest.approx(400 * 2 / 2 * 0.8125 / 4)


def test_capacity_is_that_of_the_model_which_is_full_first_and_faults_are_read() -> None:
    second = '[[model]]\nname = "slow"\nprofile = [[1, 0.1]]\n'
    asked = '[[request]]\nname = "s"\nmodel = "slow"\n'
    text = '[[fault]]\nkind = "restart"\nat_s = 1\nfor_s = 2\nnodes = "all"\nstagger_s = 3\n'
    scenario = load_scenario(PLAIN + second + asked + text, "two")
    assert scenario.capacity_per_s == pytest.approx(2 * 10 / 0.5)
    (fault,) = scenario.faults
    assert fault == Fault(FaultKind.RESTART, 1.0, 2.0, nodes="all", stagger_s=3.0)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("load = 0.5", "lod = 0.5", "scenario x: unknown key lod (did you mean load?); allowed keys are title"),
        ("load = 0.5", "load = -1", "scenario x: load is -1, expected a number from 0.001 to 100"),
        ("load = 0.5", "", "scenario x: load is missing; add it"),
        ("count = 2", "count = 0", "scenario x: node[0].count is 0, expected a whole number from 1 to"),
        ('model = "m"', 'model = "k"', "scenario x: request[0].model is 'k', expected one of m"),
        ("[[1, 0.01]]", "[[1]]", "scenario x: model[0].profile[0] is [1], expected [rows, seconds], such as [8, 0.03]"),
        ("[[1, 0.01]]", "[[2, 1], [1, 2]]", "scenario x: model[0].profile: the rows of a profile ascend"),
        ("[[1, 0.01]]", "7", "scenario x: model[0].profile is 7, expected a list of [rows, seconds]"),
        ('name = "r"', 'name = "r"\nshare = 0', "no kind has a share above 0; give one"),
        ("[[model]]", '[[fault]]\nkind = "hex"\nat_s = 1\n[[model]]', "fault[0].kind is 'hex', expected one of slow"),
        ("[[model]]", '[[fault]]\nkind = "kill"\nat_s = 1\n[[model]]', "fault[0].nodes is missing"),
        (
            "[[model]]",
            '[[fault]]\nkind = "kill"\nat_s = 1\nnodes = [2]\n[[model]]',
            "fault[0].nodes is 2, expected a list of numbers from 0 to 1",
        ),
        (
            "[[model]]",
            '[[fault]]\nkind = "freeze"\nat_s = 1\nnodes = [1]\n[[model]]',
            "fault[0].for_s is missing; add it",
        ),
        (
            "[[model]]",
            '[[fault]]\nkind = "partition"\nat_s = 1\nfor_s = 1\n[[model]]',
            "fault[0].between is missing; add it: two regions",
        ),
        ("title", "= title", "scenario x is not TOML"),
    ],
)  # fmt: skip
def test_error_in_a_scenario_is_named_with_its_key_its_value_and_what_is_allowed(
    old: str, new: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_scenario(PLAIN.replace(old, new, 1), "x")
    assert says in caught.value.message


def test_every_scenario_that_comes_with_the_project_can_be_read() -> None:
    for name in shipped_names():
        scenario = shipped_scenario(name)
        assert scenario.name == name
        assert scenario.arrivals_per_s > 0
        assert scenario.warm_up_s < scenario.duration_s
    many = shipped_scenario("routers@10")
    assert (many.routers, many.nodes) == (10, shipped_scenario("routers").nodes)
    with pytest.raises(ConfigError, match="'nowhere@3' is unknown; there are all-errors, batching"):
        shipped_scenario("nowhere@3")
