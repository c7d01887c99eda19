"""`capamesh model` as people run it, on real models with real inputs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import commands
import gguf_writer
import numpy as np
import pytest
import tiny_llama

from capamesh.node.repository import scan


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return commands.run("model", *words)


def run_json(*words: str | Path) -> Any:
    return commands.run_json("model", *words)


@pytest.fixture
def models(built_models: Path, tmp_path: Path) -> Path:
    """Return a folder with digits and magika that a test may write into."""
    folder = tmp_path / "models"
    for name in ("digits", "magika"):
        shutil.copytree(built_models / name, folder / name)
    return folder


def inputs(built_models: Path, name: str, file: Path) -> Path:
    """Write a model's cases as its inputs."""
    cases = np.load(built_models.parent / "cases" / f"{name}.npz", allow_pickle=False)
    np.savez(file, **{str(cases["input"]): cases["rows"]})
    return file


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.smoke
def test_inspect_shows_what_is_in_a_model(models: Path) -> None:
    (digits,) = run_json("inspect", models / "digits")
    assert (digits["name"], digits["version"]) == ("digits", "1")
    assert digits["inputs"] == [{"name": "X", "datatype": "fp32", "shape": ["?", 64]}]
    assert digits["batching"] == "yes: every first dimension is open"
    assert digits["operators"]["MatMul"] == 2
    shown = run("inspect", models)
    assert shown.returncode == 0
    assert shown.stdout.index("digits") < shown.stdout.index("magika")
    assert "ai.onnx.ml.Scaler" in shown.stdout


def test_check_names_the_one_model_that_a_node_would_refuse(models: Path) -> None:
    good = run_json("check", models)
    assert [(v["name"], v["is_good"], v["provider"]) for v in good] == [
        ("digits", True, "CPUExecutionProvider"),
        ("magika", True, "CPUExecutionProvider"),
    ]
    (models / "broken.onnx").write_bytes((models / "digits/1/model.onnx").read_bytes()[:1000])
    bad = run("check", models, "--json")
    assert bad.returncode == 1
    assert "Not good: 1 of 3." in bad.stderr
    reasons = {verdict["name"]: verdict["reason"] for verdict in json.loads(bad.stdout)}
    assert reasons.keys() == {"broken", "digits", "magika"}
    assert "cut short or broken" in reasons["broken"]
    assert run("check", models / "absent").returncode == 1


def test_profile_measures_and_draws(models: Path, tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    found = run_json(
        *("profile", models / "digits", "--max-rows", "6", "--seconds", "0.5", "--plot", chart)
    )
    rows = [point["rows"] for point in found["points"]]
    assert rows[0] == 1
    assert rows == [1, 2, 4, 6][: len(rows)]
    assert found["best_rows"] in rows
    dots = ET.parse(chart).iter("{http://www.w3.org/2000/svg}circle")  # noqa: S314 - our own file
    assert len(list(dots)) == 2 * len(rows)


def test_optimize_writes_a_model_that_serves_and_its_report(
    models: Path, built_models: Path, tmp_path: Path
) -> None:
    rows = inputs(built_models, "digits", tmp_path / "rows.npz")
    # how fast it is here is not the test's matter
    quick = ("--seconds", "0.3", "--allow-slower")
    report = run_json("optimize", models / "digits", "--int8", "--inputs", rows, *quick)
    assert report["folder"] == str(models / "digits-int8" / "1")
    assert report["agreement"] >= 0.99
    assert report["rows"] == 450
    assert report["after"]["size_bytes"] < 0.5 * report["before"]["size_bytes"]
    assert entries(models / "digits-int8") == ["1", "capamesh.toml", "labels.txt", "report.json"]
    assert [model.name for model in scan(models).models] == ["digits", "digits-int8", "magika"]
    assert run("check", models / "digits-int8", "--inputs", rows).returncode == 0
    # convolutions, of a real model with real inputs
    rows = inputs(built_models, "magika", tmp_path / "rows.npz")
    out = tmp_path / "small"
    for options, least, most in ((("--int8", "--out", out), 0.0, 0.4), (("--fp16",), 0.4, 0.6)):
        report = run_json("optimize", models / "magika", "--inputs", rows, *quick, *options)
        assert report["agreement"] == 1.0
        assert least < report["after"]["size_bytes"] / report["before"]["size_bytes"] < most


def test_optimize_refuses_what_decides_otherwise_and_leaves_nothing(
    models: Path, built_models: Path, tmp_path: Path
) -> None:
    # Made-up pixels are nothing like digits: the figure is far from what real ones give.
    done = run("optimize", models / "digits", "--int8", "--out", models / "new")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing was written: the int8 model makes the same decisions in 0." in done.stderr
    assert "the bound is 0.99; give real inputs with --inputs FILE.npz" in done.stderr
    assert entries(models) == ["digits", "magika"]
    rows = inputs(built_models, "digits", tmp_path / "rows.npz")
    for words, status, said in (
        (("optimize", models / "digits"), 2, "give one of --int8, --fp16 and --graph"),
        (("optimize", models / "digits", "--int8", "--fp16"), 2, "give one of --int8"),
        (("check", models, "--inputs", rows), 2, "name one of them"),
        (("check", models / "magika", "--inputs", rows), 1, "does not fit the model"),
    ):
        done = run(*words)
        assert (done.returncode, said in done.stderr) == (status, True)


def test_language_model_is_imported_and_a_node_would_serve_it(tmp_path: Path) -> None:
    source = tmp_path / "Tiny.Q4_1.gguf"
    source.write_bytes(tiny_llama.gguf(gguf_writer.Q4_1))
    models = tmp_path / "models"
    report = run_json("import-llm", source, "--to", models, "--weights", "q4", "--name", "tiny")
    assert report["folder"] == str(models / "tiny" / "1")
    assert report["notes"] == ["blocks of 4 bits are the source's own, to the bit"]
    assert report["comparison"]["agreement"] > 0.75
    (shown,) = run_json("inspect", models / "tiny")
    assert shown["operators"]["com.microsoft.GroupQueryAttention"] == tiny_llama.LAYERS
    assert shown["digest"] == report["digest"]
    again = run("import-llm", source, "--to", models, "--weights", "q4", "--name", "tiny")
    assert again.returncode == 1
    assert "replace it with --force" in again.stderr
    table = run("import-llm", source, "--to", models, "--name", "other")
    assert table.returncode == 0, table.stderr
    assert table.stdout.split("\n")[0].split() == ["THIS", "MODEL", "SOURCE", "IN", "32", "BITS"]
    (checked,) = run_json("check", models / "tiny")
    assert (checked["is_good"], checked["inputs"]) == (True, "tokens of the node's own")
    refused = run("import-llm", tmp_path / "no.gguf", "--to", models)
    assert refused.returncode == 1
    assert "does not exist; give a .gguf file" in refused.stderr
