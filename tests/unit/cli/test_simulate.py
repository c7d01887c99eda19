"""`capamesh sim`: which scenario it takes, and what it shows and draws of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from capamesh.cli.__main__ import run
from capamesh.cli.parsing import numbers
from capamesh.cli.simulation_runs import mean_text
from capamesh.simulation.shipped import shipped_names, shipped_scenario

TINY = """
title = "two nodes"
duration_s = 3.0
warm_up_s = 1.0
load = 0.5

[[node]]
name = "n"
count = 2

[[model]]
name = "m"
profile = [[1, 0.02]]

[[request]]
name = "fast"
model = "m"

[[request]]
name = "bulk"
model = "m"
priority = 200
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return str(file)


def test_all_scenarios_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found] == shipped_names()
    (listed,) = (each for each in found if each["name"] == "small-3")
    scenario = shipped_scenario("small-3")
    counted_s = scenario.duration_s - scenario.warm_up_s
    assert listed["requests"] == round(scenario.arrivals_per_s * counted_s)
    assert run(["sim", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["SCENARIO", *shipped_names()]


def test_run_is_summed_up_with_its_kinds_of_requests(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", "run", tiny, "--policy", "p2c", "--seed", "7"]) == 0
    said = capsys.readouterr()
    fields = dict(line.split("  ", 1) for line in said.out.splitlines() if "  " in line)
    assert fields["scenario"].strip() == "tiny: two nodes"
    assert fields["policy"].strip() == "p2c, seed 7"
    assert fields["fleet"].strip() == "2 nodes, 1 router, 100 requests/s at most"
    assert fields["requests"].endswith(
        " in 2 s of virtual time, after 1 s of warm-up that are not counted"
    )
    assert {"fast", "bulk"} <= fields.keys()
    assert said.err == ""  # no bar where there is no terminal


def test_same_seed_gives_the_same_json_and_another_another(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    for seed in ("1", "1", "2"):
        assert run(["sim", "run", tiny, "--seed", seed, "--policy", "p2c", "--json"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    assert json.loads(said[0])["requests"] > 50


def test_time_in_which_none_of_the_faults_happens_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for verb in ("run", "compare"):
        assert run(["sim", verb, "kill", "--seconds", "10"]) == 1
        assert capsys.readouterr().err == (
            "capamesh: error: --seconds 10: nothing of what goes wrong in kill happens in that time: its first fault is at "
            "15 s; give more, of its 60 s\n"
        )


def test_outcome_of_each_fault_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "faulty.toml"
    file.write_text(
        f"{TINY}\n"
        '[[fault]]\nkind = "kill"\nat_s = 0.5\nfor_s = 0.5\nnodes = [0]\n'
        '[[fault]]\nkind = "freeze"\nat_s = 1.0\nfor_s = 4.0\nnodes = [1]\n'
        '[[fault]]\nkind = "slow"\nat_s = 1.9\nfactor = 2.0\nnodes = [0, 1]\nstagger_s = 0.5\n'
        '[[fault]]\nkind = "liar"\nat_s = 2.5\nnodes = [1]\n'
    )
    line = ["sim", "run", str(file), "--policy", "p2c", "--seconds", "2"]
    assert run(line) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    first = next(number for number, line in enumerate(said) if line.startswith("faults"))
    assert [line.removeprefix("faults").strip() for line in said[first : first + 4]] == [
        "kill at 0.5 s for 0.5 s",
        "freeze at 1 s for 4 s: 0 of 1 were over before the time ended",
        "slow at 1.9 s, 2 times: 1 of them happened, before the time ended",
        "liar at 2.5 s: did not happen, the time ended before",
    ]
    assert run([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    faults = told["faults"]
    assert told["counted_s"] == pytest.approx(1.8)
    assert [(each["kind"], each["begun"], each["ended"], each["for_s"]) for each in faults] == [
        ("kill", 1, 1, 0.5),
        ("freeze", 1, 0, 4.0),
        ("slow", 1, 0, None),
        ("liar", 0, 0, None),
    ]


def test_policies_are_compared_and_drawn(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "p.svg"
    line = ["sim", "compare", tiny, "--policies", "p2c, round-robin", "--processes", "1"]
    assert run([*line, "--seeds", "1,2", "--plot", str(picture)]) == 0
    title, _, header, *rows = capsys.readouterr().out.splitlines()
    assert title == "two nodes"
    assert header.split()[:4] == ["POLICY", "P50", "P90", "P99"]
    assert [row.split()[0] for row in rows] == ["p2c", "round-robin"]
    assert " to " in rows[0]
    assert picture.read_text().startswith("<svg ")
    assert run([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["policy"], each["seed"]) for each in found] == [("p2c", 1), ("round-robin", 1)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run nothing", f"scenario 'nothing' is unknown; there are {shipped_names()[0]},"),
        ("run ./absent.toml", "cannot read the scenario ./absent.toml: No such file"),
        ("run TINY --policy luck", "policy 'luck' is unknown; known: affinity,"),
        ("compare TINY --policies p2c,p2c --processes 1", "at least one, each once"),
        ("run TINY --policy p2c --plot /absent/p.svg", "cannot write /absent/p.svg"),
    ],
)
def test_impossible_scenario_is_refused_in_one_line(
    tiny: str, line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", *line.replace("TINY", tiny).split()]) == 1
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert said in complaint


def test_numbers_are_listed_or_spanned() -> None:
    for text, found in (("3", [3]), ("1,2,5", [1, 2, 5]), ("1-3, 9", [1, 2, 3, 9]), ("0", [0])):
        assert numbers(text, "--seeds") == found
    for text in ("", "x", "1,", "-1", "3-1", "1.5", "1-1001", "0-999,1000"):
        with pytest.raises(typer.BadParameter, match="is no list of up to 1000 numbers"):
            numbers(text, "--seeds")
    assert [mean_text(mean) for mean in (0, 11 / 3, 1234567.0)] == ["0", "3.7", "1,234,567"]


def test_file_is_read_as_a_scenario_whatever_its_name(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(tiny).parent)
    Path("README.md").write_text("# a title\n\nwords\n")
    Path("fleet").write_text(TINY)
    assert run(["sim", "run", "README.md"]) == 1
    assert "scenario README is not TOML: " in capsys.readouterr().err
    assert run(["sim", "run", "fleet", "--policy", "p2c"]) == 0
    Path("small-3").write_text("")  # a name of the project's own is that
    assert run(["sim", "run", "small-3", "--policy", "luck"]) == 1
    assert "policy 'luck' is unknown" in capsys.readouterr().err
