"""The judgements of all checks over made-up facts: their state, what they have seen, and the line that mends it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from capamesh.cli.checkup.findings import Finding, State, has_failed, ok, skip, warn
from capamesh.cli.checkup.gpu import LIBRARIES, GpuFact, GpuFacts, check_gpus
from capamesh.cli.checkup.gpu_probes import trial_result
from capamesh.cli.checkup.machine import (
    Folder,
    PortUse,
    check_descriptors,
    check_folder,
    check_locale,
    check_memory,
    check_packages,
    check_port,
    check_python,
    check_runtime,
)
from capamesh.cli.checkup.network import Clock, Reach, check_clock, check_reach, check_token
from capamesh.cli.checkup.network_probes import mesh_address, router_address, time_of

GIB = 1 << 30
OK, WARN, FAIL, SKIP = State.OK, State.WARN, State.FAIL, State.SKIP
H100 = GpuFact("NVIDIA H100", 80 * GIB, 79 * GIB, is_partitioned=False)
GPUS = GpuFacts(
    gpus=(H100,),
    driver_version="580.65.06",
    has_hardware=True,
    has_gpu_runtime=True,
    found_libraries=LIBRARIES,
    trial="",
    runtime_version="1.31.1",
)
NO_GPU = replace(GPUS, gpus=(), driver_version="")
WANTED = ("libp2p==0.8.1", "numpy>=2.0", "rich>=14")
TWO = {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"}


def of(facts: GpuFacts, check: str) -> Finding:
    return {each.check: each for each in check_gpus(facts)}[check]


def test_gpu_on_which_a_model_runs_is_well_and_so_is_a_machine_without_one() -> None:
    found = {each.check: each.state for each in check_gpus(GPUS)}
    assert found == dict.fromkeys(("gpu", "driver", "mig", "cuda libraries", "cuda provider"), OK)
    for facts, state in ((NO_GPU, FAIL), (replace(NO_GPU, has_hardware=False), OK)):
        assert [(each.check, each.state) for each in check_gpus(facts)] == [("gpu", state)]


@pytest.mark.parametrize(
    ("found", "state", "seen", "line"),
    [
        (of(replace(GPUS, driver_version="579.99"), "driver"), FAIL, "", ""),
        (of(replace(GPUS, driver_version="580.1"), "driver"), OK, "", ""),
        (of(replace(GPUS, driver_version="1000.2"), "driver"), OK, "", ""),
        (of(replace(GPUS, driver_version=""), "driver"), WARN, "", ""),
        (
            of(replace(GPUS, found_libraries=LIBRARIES[:-1]), "cuda libraries"),
            FAIL,
            "not found: libcudnn.so.9",
            "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'",
        ),
        (
            of(replace(GPUS, gpus=(H100, replace(H100, is_partitioned=True))), "mig"),
            WARN,
            "on for 1 of 2",
            "",
        ),
        (of(replace(GPUS, trial="it should run on CUDA"), "cuda provider"), FAIL, "", ""),
        (of(replace(GPUS, trial=None), "cuda provider"), SKIP, "", ""),
        (of(replace(GPUS, trial=None, has_gpu_runtime=False), "cuda provider"), FAIL, "", ""),
        (check_python((3, 10, 9)), FAIL, "", ""),
        (check_python((3, 11, 0)), OK, "", ""),
        (check_python((3, 14, 0)), WARN, "", ""),
        (
            check_packages(WANTED, {"libp2p": "0.7.0", "rich": "15.0.0rc1"}),
            FAIL,
            "libp2p==0.8.1 is wanted, 0.7.0 is there; numpy>=2.0 is wanted, none is there",
            "pip install 'libp2p==0.8.1' 'numpy>=2.0'",
        ),
        (check_packages(("fastecdsa==2.3.2",), {"fastecdsa": "2.3.2+capamesh"}), OK, "", ""),
        (check_packages(("rich>=14",), {"rich": "of today"}), FAIL, "", ""),
        (
            check_runtime(TWO, "1.30.0", "onnxruntime-gpu"),
            FAIL,
            "",
            "pip uninstall -y onnxruntime-gpu onnxruntime && "
            "pip install --force-reinstall --no-deps onnxruntime-gpu==1.31.1",
        ),
        (check_runtime({"onnxruntime": "1.31.1"}, "1.31.1", "onnxruntime"), OK, "", ""),
        (check_runtime({"onnxruntime": "1.31.1"}, "", "onnxruntime"), FAIL, "", ""),
        (check_runtime({}, "", "onnxruntime"), FAIL, "", ""),
        (check_folder(Folder("data", "", GIB)), OK, "", ""),
        (check_folder(Folder("data", "", GIB - 1)), WARN, "", ""),
        (check_folder(Folder("data", "", (16 << 20) - 1)), FAIL, "", ""),
        (
            check_folder(Folder("my data; rm x", "this user may not write into /", 9 * GIB)),
            FAIL,
            "",
            "sudo chown -R $(id -u) 'my data; rm x'",
        ),
        (check_memory(GIB, 8 * GIB), OK, "", ""),
        (check_memory(GIB - 1, 8 * GIB), WARN, "", ""),
        (check_memory((384 << 20) - 1, 8 * GIB), FAIL, "", ""),
        (check_port(PortUse(8000, is_free=True)), OK, "free", ""),
        (check_port(PortUse(8000, is_free=False, user="nginx")), WARN, "in use by nginx", ""),
        (check_port(PortUse(8000, is_free=False)), WARN, "in use; by whom only root can see", ""),
        (check_port(PortUse(8000, is_free=False, user="capamesh")), OK, "a member of this", ""),
        (check_port(PortUse(80, is_free=False, problem="denied")), FAIL, "denied", ""),
        (check_descriptors(1023), WARN, "", ""),
        (check_descriptors(1024), OK, "", ""),
        (check_locale(is_there=True), OK, "", ""),
        (check_locale(is_there=False), WARN, "", ""),
        (check_clock(Clock(ahead_s=5.0, is_synchronised=False)), OK, "as the router's", ""),
        (check_clock(Clock(ahead_s=5.1, is_synchronised=False)), WARN, "5 s ahead of the", ""),
        (check_clock(Clock(ahead_s=-60.0, is_synchronised=False)), WARN, "60 s behind the", ""),
        (check_clock(Clock(ahead_s=-61.0, is_synchronised=False)), FAIL, "61 s behind the", ""),
        (check_clock(Clock(is_synchronised=True)), OK, "", ""),
        (check_clock(Clock(is_synchronised=False)), WARN, "", ""),
        (check_clock(Clock(is_synchronised=None)), SKIP, "", ""),
        (check_token("the join token expired", ""), FAIL, "", ""),
        (check_token("", "admits a node until tomorrow"), OK, "admits a node until tomorrow", ""),
        (check_reach(())[0], SKIP, "", ""),
        (check_reach((Reach("10.0.0.5:8000", ""),))[0], OK, "", ""),
        (check_reach((Reach("[::1]:4001", "refused"),))[0], FAIL, "", "nc -vz ::1 4001"),
        (check_reach((Reach("$(reboot):1", "no name"),))[0], FAIL, "", "nc -vz '$(reboot)' 1"),
    ],
)
def test_finding_has_its_state_and_names_the_line_that_mends_it(
    found: Finding, state: State, seen: str, line: str
) -> None:
    assert found.state is state
    assert found.seen.startswith(seen)
    assert found.run == (line or found.run)


def test_last_port_has_the_one_before_it_as_its_neighbour() -> None:
    assert "127.0.0.1:65534" in check_port(PortUse(65_535, is_free=False, user="x")).run


def test_warnings_and_skipped_checks_are_no_failures() -> None:
    assert not has_failed((ok("a", ""), warn("b", ""), skip("c", "")))
    assert has_failed((ok("a", ""), check_descriptors(1024), check_python((3, 9, 0))))


def test_trial_is_read_from_what_the_check_of_a_model_printed() -> None:
    assert trial_result(0, '[{"is_good": true, "reason": ""}]') == ""
    assert trial_result(1, '[{"is_good": false, "reason": "no CUDA"}]') == "no CUDA"
    assert trial_result(-11, "") == "the trial run ended with status -11"
    assert trial_result(1, "[]") == "the trial run ended with status 1"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("https://router.example/path", ("router.example", 443)),
        ("http://[::1]:8000", ("::1", 8000)),
        *[(url, None) for url in ("http://x:99999", "http://[::1", "router:8000", "")],
        ("/ip4/10.0.0.5/tcp/4001/p2p/12D3", ("10.0.0.5", 4001)),
        ("/ip6/::1/tcp/4001", ("::1", 4001)),
        ("/dns4/router/tcp/4001/p2p/12D3", ("router", 4001)),
        *[(f"/ip4/10.0.0.5/{end}", None) for end in ("udp/4001/quic", "tcp/0", "tcp/70000")],
        ("10.0.0.5:4001", None),
    ],
)
def test_address_of_a_router_or_of_the_mesh_is_a_host_and_a_port(
    text: str, address: tuple[str, int] | None
) -> None:
    read = mesh_address if text.startswith("/") else router_address
    assert read(text) == address


def test_time_of_a_router_is_its_date_header() -> None:
    told = dt.datetime(2026, 11, 26, 19, tzinfo=dt.UTC)
    assert time_of("Thu, 26 Nov 2026 19:00:00 GMT") == told
    for header in ("Thu, 26 Nov 2026 19:00:00 -0000", "Thu, 99 Nov 2026 19:00:00 GMT", "", None):
        assert time_of(header) is None
