"""`capamesh sim`: which scenario it takes, and what it shows and draws of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from capamesh.cli.simulation_runs import mean_text
from capamesh.simulation.shipped import shipped_names, shipped_scenario

if TYPE_CHECKING:
    from .conftest import Cli

TINY = """
title = "two nodes"
duration_s = 3.0
warm_up_s = 1.0
load = 0.5
node = [{name = "n", count = 2}]
model = [{name = "m", profile = [[1, 0.02]]}]
request = [{name = "fast", model = "m"}, {name = "bulk", model = "m", priority = 200}]
"""
FAULTS = """
fault = [
  {kind = "kill", at_s = 0.5, for_s = 0.5, nodes = [0]},
  {kind = "freeze", at_s = 1.0, for_s = 4.0, nodes = [1]},
  {kind = "slow", at_s = 1.9, factor = 2.0, nodes = [0, 1], stagger_s = 0.5},
  {kind = "liar", at_s = 2.5, nodes = [1]},
]
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return str(file)


def test_all_scenarios_are_listed(cli: Cli) -> None:
    found = cli("sim list --json").json
    assert [each["name"] for each in found] == shipped_names()
    (listed,) = (each for each in found if each["name"] == "small-3")
    scenario = shipped_scenario("small-3")
    counted_s = scenario.duration_s - scenario.warm_up_s
    assert listed["requests"] == round(scenario.arrivals_per_s * counted_s)
    names = [line.split()[0] for line in cli("sim list").lines]
    assert names == ["SCENARIO", *shipped_names()]


def test_run_is_summed_up_with_its_kinds_of_requests(tiny: str, cli: Cli) -> None:
    said = cli(f"sim run {tiny} --policy p2c --seed 7")
    fleet = "fleet 2 nodes, 1 router, 100 requests/s at most"
    assert {"scenario tiny: two nodes", "policy p2c, seed 7", fleet} <= set(said.lines)
    firsts = {line.partition(" ")[0]: line for line in said.lines}
    end = " in 2 s of virtual time, after 1 s of warm-up that are not counted"
    assert firsts["requests"].endswith(end)
    assert {"fast", "bulk"} <= firsts.keys()
    assert said.err == ""  # no bar where there is no terminal
    assert [mean_text(mean) for mean in (0, 11 / 3, 1234567.0)] == ["0", "3.7", "1,234,567"]


def test_same_seed_gives_the_same_json_and_another_another(tiny: str, cli: Cli) -> None:
    said = [cli(f"sim run {tiny} --seed {seed} --policy p2c --json") for seed in (1, 1, 2)]
    assert said[0].out == said[1].out != said[2].out
    assert said[0].json["requests"] > 50


def test_time_in_which_none_of_the_faults_happens_is_refused(cli: Cli) -> None:
    for verb in ("run", "compare"):
        assert cli(f"sim {verb} kill --seconds 10", status=1).err == (
            "capamesh: error: --seconds 10: nothing of what goes wrong in kill happens in that time: its first fault is at "
            "15 s; give more, of its 60 s\n"
        )


def test_outcome_of_each_fault_is_reported(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "faulty.toml"
    file.write_text(TINY + FAULTS)
    said = cli(f"sim run {file} --policy p2c --seconds 2").lines
    first = next(number for number, line in enumerate(said) if line.startswith("faults"))
    assert said[first : first + 4] == [
        "faults kill at 0.5 s for 0.5 s",
        "freeze at 1 s for 4 s: 0 of 1 were over before the time ended",
        "slow at 1.9 s, 2 times: 1 of them happened, before the time ended",
        "liar at 2.5 s: did not happen, the time ended before",
    ]
    told = cli(f"sim run {file} --policy p2c --seconds 2 --json").json
    assert told["counted_s"] == pytest.approx(1.8)
    assert [
        (each["kind"], each["begun"], each["ended"], each["for_s"]) for each in told["faults"]
    ] == [("kill", 1, 1, 0.5), ("freeze", 1, 0, 4.0), ("slow", 1, 0, None), ("liar", 0, 0, None)]


def test_policies_are_compared_and_drawn(tiny: str, tmp_path: Path, cli: Cli) -> None:
    picture = tmp_path / "p.svg"
    line = f"sim compare {tiny} --processes 1 --seeds 1,2 --plot {picture} --policies"
    title, _, header, *rows = cli(line, "p2c, round-robin").lines
    assert title == "two nodes"
    assert header.startswith("POLICY P50 P90 P99 ")
    assert [row.split()[0] for row in rows] == ["p2c", "round-robin"]
    assert " to " in rows[0]
    assert picture.read_text().startswith("<svg ")
    found = cli(f"sim compare {tiny} --processes 1 --policies p2c,round-robin --json").json
    assert [(each["policy"], each["seed"]) for each in found] == [("p2c", 1), ("round-robin", 1)]


def test_impossible_scenario_is_refused_in_one_line(tiny: str, cli: Cli) -> None:
    for line, said in (
        ("run nothing", f"scenario 'nothing' is unknown; there are {shipped_names()[0]},"),
        ("run ./absent.toml", "cannot read the scenario ./absent.toml: No such file"),
        (f"run {tiny} --policy luck", "policy 'luck' is unknown; known: affinity,"),
        (f"compare {tiny} --policies p2c,p2c --processes 1", "at least one, each once"),
        (f"run {tiny} --policy p2c --plot /absent/p.svg", "cannot write /absent/p.svg"),
    ):
        complaint = cli(f"sim {line}", status=1).err
        assert complaint.count("\n") == 1
        assert said in complaint


def test_file_is_read_as_a_scenario_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("# a title\n\nwords\n")
    Path("fleet").write_text(TINY)
    Path("small-3").write_text("")  # a name of the project's own is that
    assert "scenario README is not TOML: " in cli("sim run README.md", status=1).err
    cli("sim run fleet --policy p2c")
    assert "policy 'luck' is unknown" in cli("sim run small-3 --policy luck", status=1).err
