"""Makes every check of `capamesh doctor`, each within its time. IO: as the probes."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from packaging.requirements import Requirement

from capamesh.cli.checkup import gpu_probes, machine_probes, network_probes
from capamesh.cli.checkup.findings import Finding, fail, warn
from capamesh.cli.checkup.gpu import check_gpus
from capamesh.cli.checkup.machine import (
    RUNTIMES,
    check_descriptors,
    check_folder,
    check_locale,
    check_memory,
    check_packages,
    check_port,
    check_python,
    check_runtime,
)
from capamesh.cli.checkup.network import check_clock, check_reach, check_token
from capamesh.cli.cluster_session import samples_folder
from capamesh.node.devices.host import read_cpu
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.network import JoinToken

LIMIT_S: Final = 90.0
"""The longest that all checks together take: the trial run of a GPU has 60 s, and some to begin."""

Findings: TypeAlias = tuple[Finding, ...]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Asked:
    """The subject of the checks."""

    ports: tuple[int, ...]
    data_folder: Path
    router: str = ""
    token: str | None = None


def diagnose(asked: Asked, limit_s: float = LIMIT_S) -> Findings:
    """Return the findings of all checks, in the order of their table.

    The checks are made at the same time, each in a thread; one that is not done within `limit_s` is told as late, and its
    thread ends with the process.
    """
    # Looked at before there are threads: a process has one locale for all of them.
    has_locale = machine_probes.has_locale()
    return made(_checks(asked, has_locale=has_locale), limit_s)


def made(checks: Mapping[str, Callable[[], Findings]], limit_s: float) -> Findings:
    """Return what each check finds; a warning for one that takes longer than `limit_s`, a failure for one that breaks."""
    begun = {name: _begin(check) for name, check in checks.items()}
    deadline_s = time.monotonic() + limit_s
    found: list[Finding] = []
    for name, future in begun.items():
        try:
            found += future.result(timeout=max(0.0, deadline_s - time.monotonic()))
        except LateError:
            found.append(warn(name, f"no answer within {limit_s:g} s"))
        except Exception as error:  # noqa: BLE001 - one check that breaks must not hide the others
            found.append(fail(name, f"cannot be checked: {type(error).__name__}: {error}"))
    return tuple(found)


def _begin(check: Callable[[], Result]) -> Future[Result]:
    """Run a check in a thread that does not keep this process from ending."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(check())
        except Exception as error:  # noqa: BLE001 - told to whoever waits for it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _checks(asked: Asked, *, has_locale: bool) -> dict[str, Callable[[], Findings]]:
    token = _Token.read(asked.token)
    return {
        "python": lambda: (check_python(machine_probes.python_version()),),
        "packages": _packages,
        **{f"port {port}": partial(_port, port) for port in asked.ports},
        "clock": lambda: (check_clock(network_probes.clock(asked.router)),),
        "gpu": _gpus,
        "open files": lambda: (check_descriptors(machine_probes.descriptor_limit()),),
        "locale": lambda: (check_locale(has_locale),),
        "data folder": lambda: (check_folder(machine_probes.folder_facts(asked.data_folder)),),
        "memory": _memory,
        **({"token": lambda: (token.finding(),)} if token is not None else {}),
        "network": lambda: _reached(asked.router, token.bootstrap if token is not None else ()),
    }


def _port(port: int) -> Findings:
    return (check_port(machine_probes.port_use(port)),)


def _packages() -> Findings:
    wanted = machine_probes.wanted_packages()
    installed = machine_probes.installed_packages(wanted)
    runtime, _ = runtime_facts()
    needed = next(
        (each for each in RUNTIMES if any(_is_of(each, text) for text in wanted)), RUNTIMES[-1]
    )
    return check_packages(wanted, installed), check_runtime(installed, runtime, needed)


def _is_of(name: str, requirement: str) -> bool:
    return Requirement(requirement).name == name


def runtime_facts() -> tuple[str, tuple[str, ...]]:
    """Return the version and the providers of the ONNX Runtime that is read in; nothing where it cannot be."""
    try:
        from capamesh.node.runtime.onnxruntime.binding import ort  # noqa: PLC0415 - it may be broken
    except (ImportError, AttributeError):
        return "", ()
    return str(ort.__version__), tuple(map(str, ort.get_available_providers()))


def _gpus() -> Findings:
    version, providers = runtime_facts()
    return check_gpus(
        gpu_probes.gpu_facts(version, providers, samples_folder() / "models" / "digits")
    )


def _memory() -> Findings:
    cpu = read_cpu()
    return (check_memory(cpu.memory_free_bytes, cpu.memory_total_bytes),)


@dataclass(frozen=True, slots=True)
class _Token:
    """A join token that was given, and what is wrong with it."""

    problem: str
    described: str = ""
    bootstrap: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str | None) -> _Token | None:
        if text is None:
            return None
        try:
            token = JoinToken.parse(text)
        except CapameshError as error:
            return cls(error.message)
        try:
            token.check_time(dt.datetime.now(dt.UTC))
        except CapameshError as error:
            return cls(error.message, bootstrap=token.bootstrap)
        until = f"{token.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        return cls("", f"admits a {token.role} until {until}", token.bootstrap)

    def finding(self) -> Finding:
        return check_token(self.problem, self.described)


def _reached(router: str, bootstrap: tuple[str, ...]) -> Findings:
    found = [network_probes.router_address(router)] if router else []
    found += [network_probes.mesh_address(each) for each in bootstrap]
    addresses = list(dict.fromkeys(each for each in found if each is not None))
    dialled = [
        _begin(partial(network_probes.reach, *each))
        for each in addresses[: network_probes.MOST_ADDRESSES]
    ]
    return check_reach(tuple(future.result() for future in dialled))
