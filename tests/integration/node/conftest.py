"""A worker's parts in one process, asked over TLS links: real models, real hosting, real threads; and figures that a test found."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import engine_models
import onnx
import pytest
from fleet_fakes import NullLog
from link_sockets import HOST, Members, Side, within
from patience import LIMIT_S

from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.devices.in_flight_page import InFlightPage
from capamesh.node.models.lifecycle import ModelLifecycle
from capamesh.node.models.preparation import Preparation
from capamesh.node.models.registry import HostedModel, ModelRegistry
from capamesh.node.models.shortage import Reserve
from capamesh.node.profiling.profile_cache import ProfileCache
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.scheduling import MemoryBudget
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.link import Link
from capamesh.protocol.network import Role
from capamesh.protocol.tensors import Limits

_FINDINGS = pytest.StashKey[list[str]]()


class Town:
    """A worker that hosts a folder, and routers that ask it."""

    def __init__(self, folder: Path, watchdog_s: float) -> None:
        self.folder = folder / "models"
        self.folder.mkdir()
        self.page = InFlightPage.create(folder / "page")
        self.models = ModelRegistry()
        self.backend = OnnxBackend("cpu")
        self.stuck: list[str] = []
        self._members = Members(folder / "members")
        self._news = asyncio.Event()
        self.address = ""
        log: Any = NullLog()
        self.lifecycle = ModelLifecycle(
            WorkerSettings(
                poll_s=0.01,
                is_controllable=True,
                max_in_flight=10_000,
                load_limit_s=60.0,
                watchdog_s=watchdog_s,
            ),
            self.folder,
            self.models,
            self.backend,
            Preparation(
                self.backend,
                ProfileCache(folder / "profiles"),
                circumstances={"device": "cpu"},
                clock=time.perf_counter,
            ),
            budget=MemoryBudget(0),
            marks=InFlightJournal(self.page),
            on_change=self._news.set,
            on_stuck=self.stuck.append,
            on_moved=lambda: None,
            on_survived=lambda: None,
            reserve=Reserve(log),
            log=log,
        )
        self.service = WorkerService(
            self.models,
            self._members.trust(),
            control=self.lifecycle.change,
            clock=time.monotonic,
            later=asyncio.get_running_loop().call_later,
            limits=Limits(),
            log=log,
        )

    async def serve(self) -> asyncio.Server:
        transport = self._members.transport(self._members.join(Role.NODE), None, None)
        server = await transport.listen(HOST, 0, lambda: self.service)
        self.address = f"{HOST}:{server.sockets[0].getsockname()[1]}"
        return server

    async def link(self, limits: LinkLimits | None = None) -> Link:
        """Return one more router's link to the worker."""
        transport = self._members.transport(self._members.join(Role.ROUTER), limits, None)
        return await transport.dial(self.address, Side(self._members.trust(), Role.NODE))

    def put(self, name: str, model: onnx.ModelProto, manifest: str = "") -> None:
        """Put a model into the folder at once, with its manifest, as if it had been there for a while."""
        is_new = not (self.folder / name).exists()
        folder = self.folder.with_name("put") if is_new else self.folder
        file = engine_models.save(model, folder, name, manifest=manifest)
        os.utime(file, (1_000_000, 1_000_000))
        if is_new:
            (folder / name).rename(self.folder / name)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until a change of the models has made something so."""
        async with asyncio.timeout(LIMIT_S):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    async def until_ready(self, *names: str) -> None:
        await self.until(lambda: {hosted.source.name for hosted in self.models} == set(names))

    def hosted(self, model: str) -> HostedModel:
        found = self.models.find(ModelName(model), ModelVersion(""))
        assert found is not None
        return found

    def counts(self, model: str) -> Any:
        return next(one for one in self.models.counts() if one["name"] == model)

    async def at_rest(self) -> None:
        """Wait until nothing is under way, and check that nothing is left of it."""
        for hosted in self.models:
            await within(hosted.runner.wait_idle())
        assert (self.service._requests, self.page.marked(), self.stuck) == ({}, [], [])


@pytest.fixture
async def town(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Town]:
    """Return a town with an empty folder, which must be at rest in the end; `indirect` gives the watchdog's seconds."""
    town = Town(tmp_path, getattr(request, "param", 60.0))
    server = await town.serve()
    lifecycle = asyncio.create_task(town.lifecycle.run())
    yield town
    await town.at_rest()
    lifecycle.cancel()
    await asyncio.gather(lifecycle, return_exceptions=True)
    server.close()
    town.service.close("the test is over")
    town.lifecycle.close()


@pytest.fixture(scope="module")
def findings(request: pytest.FixtureRequest) -> list[str]:
    """Lines appended here are printed after pytest's own summary."""
    return request.config.stash.setdefault(_FINDINGS, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(_FINDINGS, []):
        terminalreporter.write_line(line)
