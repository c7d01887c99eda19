"""The judgements of GPUs, over made-up facts."""

from __future__ import annotations

import dataclasses

import pytest

from capamesh.cli.checkup.findings import State
from capamesh.cli.checkup.gpu import LIBRARIES, GpuFact, GpuFacts, check_gpus
from capamesh.cli.checkup.gpu_probes import trial_result

GIB = 1 << 30
GOOD = GpuFacts(
    gpus=(GpuFact("NVIDIA H100", 80 * GIB, 79 * GIB, is_partitioned=False),),
    driver_version="580.65.06",
    has_hardware=True,
    has_gpu_runtime=True,
    found_libraries=LIBRARIES,
    trial="",
    runtime_version="1.31.1",
)
LINE = "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"


def states(facts: GpuFacts) -> dict[str, State]:
    return {finding.check: finding.state for finding in check_gpus(facts)}


def test_gpu_on_which_a_model_runs_is_well() -> None:
    assert states(GOOD) == dict.fromkeys(
        ("gpu", "driver", "mig", "cuda libraries", "cuda provider"), State.OK
    )
    none = dataclasses.replace(GOOD, gpus=(), driver_version="")
    assert states(none) == {"gpu": State.FAIL}  # its driver is missing
    assert states(dataclasses.replace(none, has_hardware=False)) == {"gpu": State.OK}


@pytest.mark.parametrize(
    ("version", "state"),
    [("579.99", State.FAIL), ("580.1", State.OK), ("1000.2", State.OK), ("", State.WARN)],
)
def test_driver_is_new_enough_for_cuda_13(version: str, state: State) -> None:
    assert states(dataclasses.replace(GOOD, driver_version=version))["driver"] is state


def test_libraries_that_are_missing_are_named_with_the_line() -> None:
    facts = dataclasses.replace(GOOD, found_libraries=LIBRARIES[:-1])
    (found,) = (each for each in check_gpus(facts) if each.check == "cuda libraries")
    assert (found.state, found.seen, found.run) == (
        State.FAIL,
        "not found: libcudnn.so.9",
        LINE,
    )


def test_partitioned_gpus_are_counted() -> None:
    other = GpuFact("NVIDIA H100", 80 * GIB, 79 * GIB, is_partitioned=True)
    (found,) = (
        each
        for each in check_gpus(dataclasses.replace(GOOD, gpus=(*GOOD.gpus, other)))
        if each.check == "mig"
    )
    assert found.state is State.WARN
    assert found.seen.startswith("on for 1 of 2")


@pytest.mark.parametrize(
    ("trial", "has_gpu_runtime", "state"),
    [
        ("", True, State.OK),
        ("it should run on CUDAExecutionProvider", True, State.FAIL),
        (None, True, State.SKIP),
        (None, False, State.FAIL),
    ],
)
def test_provider_is_judged_by_a_run(
    trial: str | None, has_gpu_runtime: bool, state: State
) -> None:
    facts = dataclasses.replace(GOOD, trial=trial, has_gpu_runtime=has_gpu_runtime)
    assert states(facts)["cuda provider"] is state


@pytest.mark.parametrize(
    ("status", "printed", "reason"),
    [
        (0, '[{"is_good": true, "reason": ""}]', ""),
        (1, '[{"is_good": false, "reason": "no CUDA"}]', "no CUDA"),
        (-11, "", "the trial run ended with status -11"),
        (1, "[]", "the trial run ended with status 1"),
    ],
)
def test_trial_is_read_from_what_the_check_of_a_model_printed(
    status: int, printed: str, reason: str
) -> None:
    assert trial_result(status, printed) == reason
