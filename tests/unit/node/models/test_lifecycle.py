from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fleet_fakes import OUT, SPEC, NullLog, advert, fp32
from onnx import helper
from patience import LIMIT_S
from worker_fakes import LONG, FakeModel, FakeSwitch, source_of

from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.contract.verdict import Verdict
from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.devices.in_flight_page import InFlightPage, Marked, Phase
from capamesh.node.models import changes, folder_watch, shortage
from capamesh.node.models import eviction as room_module
from capamesh.node.models.eviction import (
    IDLE_LOADS,
    LEAST_IDLE_S,
    MOST_IDLE_S,
)
from capamesh.node.models.lifecycle import MAX_CHANGES, ModelLifecycle
from capamesh.node.models.preparation import LoadResult
from capamesh.node.models.refusals import MAX_SHOWN
from capamesh.node.models.registry import OUTDATED, HostedModel, ModelRegistry
from capamesh.node.models.shortage import Reserve
from capamesh.node.profiling.profile_cache import Measured
from capamesh.node.repository import ContentChanged, Manifest, ModelSource, Refused, Scan, scan
from capamesh.node.repository.rules import PipelineStep, Rules
from capamesh.node.runtime.api import LoadedModel, OutOfMemory
from capamesh.node.scheduling import BatchPlan, MemoryBudget, PendingRequest, Result
from capamesh.protocol.adverts import ModelState, advert_to_body
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    InvalidRequest,
    ModelInvalid,
    Overloaded,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import ControlAction, ControlCall
from capamesh.protocol.tensors import Datatype, TensorSpec

ANY = ModelVersion("")
READY, FAILED, UNLOADED = ModelState.READY, ModelState.FAILED, ModelState.UNLOADED
BROKEN = ModelInvalid("an operator is unknown")
POLL_S = 0.001
GRAPH = helper.make_model(
    helper.make_graph([], "g", [], []), ir_version=10, opset_imports=[helper.make_opsetid("", 21)]
).SerializeToString()


class Device:
    """A backend and a preparation at once: loads what fits, and fails as a test says."""

    runtime = "fake 1"
    streams = 1

    def __init__(self) -> None:
        self.total_bytes = 1_000_000
        self.loaded: list[str] = []
        """Every load, as "name/version digest's end"."""
        self.models: dict[str, FakeModel] = {}
        """The latest of each, by "name/version"."""
        self.errors: dict[str, Exception] = {}
        self.notes: tuple[str, ...] = ()
        self.during_load: Callable[[str], object] = lambda _: None
        self.kept_bytes = 0
        """Not given back once a model was closed, but used again."""
        self._held: dict[FakeModel, int] = {}

    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes()

    def used_bytes(self) -> int:
        kept = self.kept_bytes if any(model.is_closed for model in self._held) else 0
        return max(kept, sum(size for model, size in self._held.items() if not model.is_closed))

    def stop_switch(self) -> FakeSwitch:
        return FakeSwitch()

    def load(self, source: ModelSource) -> LoadedModel:
        name = f"{source.name}/{source.version}"
        self.loaded.append(f"{name} {source.digest[-1]}")
        self.during_load(name)
        if name in self.errors:
            raise self.errors[name]
        inputs = {
            "wide": tuple(TensorSpec(f"x{n}", Datatype.FP32, (1,)) for n in range(1025)),
            "open": (TensorSpec("x", Datatype.FP32, (-1, -1)),),
        }
        model = self.models[name] = FakeModel(inputs.get(source.name, SPEC))
        self._held[model] = source.size_bytes
        return model

    load_stream = load

    # Preparation

    def prepare(self, source: ModelSource, load: Callable[[], LoadedModel]) -> LoadResult:
        loaded = load()
        if source.is_pipeline:
            self.loaded.append(f"{source.name}/{source.version} {source.digest[-1]}")
        plan = BatchPlan(loaded.inputs, loaded.outputs)
        measured = Measured(LONG, source.size_bytes, is_batching=False)
        return LoadResult(loaded, plan, measured, self.notes)

    def needed_bytes(self, source: ModelSource) -> int:
        return source.size_bytes


def manifest(*members: str, is_pinned: bool = False, **more: Any) -> Manifest:
    """Return the manifest of a model, or of a pipeline that feeds each member's output to the next."""
    names = ["x", *(f"t{at}" for at in range(1, len(members))), "y"]
    steps = tuple(
        PipelineStep(name, version, (("x", names[at]),), (("y", names[at + 1]),))
        for at, (name, _, version) in enumerate(member.partition("/") for member in members)
    )
    return Manifest(rules=Rules(steps=steps, is_pinned=is_pinned, **more))


def pipeline(name: str, *members: str, digest: str = "") -> ModelSource:
    return source_of(name, digest=digest, manifest=manifest(*members))


def of_size(name: str, size_bytes: int, *, pinned: bool = False, digest: str = "") -> ModelSource:
    return source_of(
        name, size_bytes=size_bytes, digest=digest, manifest=manifest(is_pinned=pinned)
    )


def held(name: str, *, digest: str = "", held_s: float = 3600.0) -> Verdict:
    """Return what the agent says of a model; `digest` as in `source_of`, empty: it does not know."""
    whole = source_of(name, digest=digest).digest if digest else ""
    return Verdict(name, "1", whole, "it was loading at three deaths", held_s=held_s)


class Rig:
    """A hosting that runs, over a folder that a test fills by saying what a scan finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.found: Scan | ConfigError | None = None
        """None: what really is in the folder."""
        self.scans = 0
        self.before: Scan | None = None
        """What the latest scan was told of the one before it."""
        self.device = Device()
        self.models = ModelRegistry()
        self.budget = MemoryBudget(0)
        self.log = NullLog()
        self.reported: list[list[str]] = []
        self.stuck: list[str] = []
        self.marks = InFlightJournal(None)
        self.lifecycle: ModelLifecycle
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(folder_watch, "scan", self._scan)

    def has(self, *sources: ModelSource, refused: Sequence[Refused] = ()) -> None:
        """Say what the folder has from now on."""
        self.found = Scan(sources, tuple(refused))

    def _scan(self, root: Path, *, before: Scan | None, **how: Any) -> Scan:
        self.before = before
        try:
            if isinstance(self.found, ConfigError):
                raise self.found
            return self.found or scan(root, before=before, **how)
        finally:
            self.scans += 1
            self._loop.call_soon_threadsafe(self._news.set)

    def _changed(self) -> None:
        offers = self.models.offers()
        advert_to_body(advert("node", "h:1", models=offers))  # receivers take it
        self.reported.append([f"{one.name}/{one.version} {one.state}" for one in offers])
        self._news.set()

    def start(
        self, *, poll_s: float = POLL_S, verdicts: Sequence[Verdict] = (), **settings: Any
    ) -> None:
        chosen: dict[str, Any] = {"is_controllable": True, "max_in_flight": 64, **settings}
        self.lifecycle = ModelLifecycle(
            WorkerSettings(poll_s=poll_s, **chosen),
            self.folder,
            self.models,
            self.device,
            self.device,
            verdicts=verdicts,
            compute_capability="",
            budget=self.budget,
            marks=self.marks,
            on_change=self._changed,
            on_stuck=lambda reason: (self.stuck.append(reason), self._news.set()),
            on_moved=pytest.fail,
            on_survived=lambda: None,
            reserve=Reserve(self.log),
            log=self.log,
        )
        self._task = asyncio.create_task(self.lifecycle.run())
        self._task.add_done_callback(lambda _: self._news.set())

    async def serve(self, *sources: ModelSource, **settings: Any) -> None:
        """Start with a folder of these, and wait until each is ready."""
        self.has(*sources)
        self.start(**settings)
        await self.ready(*(f"{one.name}/{one.version}" for one in sources))

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; it is looked at after whatever may have changed it."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                assert not self._task.done(), self._task
                self._news.clear()
                await self._news.wait()

    async def followed(self) -> None:
        """Wait until the folder as it is now has been read and seen to, and read again."""
        before = self.scans
        await self.until(lambda: self.scans >= before + 3)

    async def ready(self, *names: str) -> None:
        """Wait until exactly these are ready."""
        await self.until(lambda: self.states(READY) == sorted(names))

    async def logged(self, event: str) -> None:
        """Wait until this is in the log, and the folder has been seen to."""
        await self.until(lambda: event in self.log.events)
        await self.followed()

    async def serves(self, name: str, digest: str) -> None:
        """Wait until a model is served whose digest has this end."""
        await self.until(lambda: self.hosted(name).source.digest.endswith(digest))

    async def ask(self, action: ControlAction, name: str, version: str = "") -> str:
        """Ask for a change and wait for it; return "done", or why not."""
        outcome: asyncio.Future[str] = self._loop.create_future()

        def done(error: CapameshError | None) -> None:
            outcome.set_result("done" if error is None else f"{error.code}: {error.message}")

        self.lifecycle.change(ControlCall(action, ModelName(name), ModelVersion(version)), done)
        async with asyncio.timeout(LIMIT_S):
            return await outcome

    load = partialmethod(ask, ControlAction.LOAD)
    want = partialmethod(ask, ControlAction.WANT)
    unload = partialmethod(ask, ControlAction.UNLOAD)

    def states(self, state: ModelState) -> list[str]:
        return [f"{one.name}/{one.version}" for one in self.models.offers() if one.state is state]

    def state(self, name: str, version: str = "1") -> tuple[ModelState, str]:
        offer = self.models.offer((ModelName(name), ModelVersion(version)))
        return offer.state, offer.reason

    def hosted(self, name: str) -> HostedModel:
        found = self.models.find(ModelName(name), ANY)
        assert found is not None
        return found

    def submit(self, name: str, value: float = 1.0) -> asyncio.Future[Result]:
        """Ask a model, as the service would."""
        answer: asyncio.Future[Result] = self._loop.create_future()
        request = PendingRequest(
            (fp32("x", [value, 0.0]),),
            (),
            lambda _, result: answer.set_result(result),
            arrived_s=time.monotonic(),
        )
        self.hosted(name).runner.submit(request)
        return answer

    async def value(self, name: str, value: float = 1.0) -> float:
        """Ask a model; return the number it answers with."""
        async with asyncio.timeout(LIMIT_S):
            result = await self.submit(name, value)
        assert not isinstance(result, CapameshError), result
        return float(result[0].to_numpy()[0, 0])

    async def stop(self) -> None:
        if self._task is None:
            return
        for model in self.device.models.values():
            model.gate.set()
        is_over = self._task.done()
        self._task.cancel()
        (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
        assert is_over or isinstance(outcome, asyncio.CancelledError), outcome
        self.lifecycle.close()


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(monkeypatch, tmp_path)
    yield rig
    await rig.stop()


def put(root: Path, name: str, data: bytes = GRAPH) -> None:
    """Write a file that looks as if it had been there for a while."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (1_000_000, 1_000_000))


# the first time


async def test_models_load_one_after_the_other_and_each_is_reported_of(rig: Rig) -> None:
    put(rig.folder, "m/1/model.onnx")
    put(rig.folder, "m/2/model.onnx")
    rig.device.notes = ("a key is ignored",)
    rig.start(poll_s=0)
    await rig.ready("m/1", "m/2")
    assert rig.reported == [
        ["m/1 loading", "m/2 loading"],
        ["m/1 ready", "m/2 loading"],
        ["m/1 ready", "m/2 ready"],
    ]
    assert rig.log.events == ["model_note", "model_ready"] * 2
    first, second = rig.models.offers()
    assert (first.inputs, first.outputs, first.reason) == (SPEC, OUT, "")
    assert first.digest == second.digest
    assert first.digest.startswith("sha256-chunks:")
    assert rig.scans == 1
    assert await rig.value("m", 4.0) == 8.0


async def test_model_that_cannot_be_loaded_says_why_and_hides_no_other(rig: Rig) -> None:
    rig.has(source_of("bad"), source_of("m"), source_of("odd"), source_of("wide"))
    # a reason does not tell where the folder lies
    rig.device.errors["bad/1"] = ModelInvalid(f"'{rig.folder.resolve()}/bad/1' is odd")
    rig.device.errors["odd/1"] = KeyError("x")
    rig.start()
    await rig.ready("m/1")
    await rig.followed()
    assert rig.state("bad") == (FAILED, "'bad/1' is odd")
    assert rig.state("odd") == (FAILED, "loading it failed: KeyError: 'x'")
    assert "model_load_crashed" in rig.log.events
    state, reason = rig.state("wide")  # which no advert can carry
    assert (state, "1024" in reason) == (FAILED, True)
    assert rig.device.models["wide/1"].is_closed
    assert rig.device.loaded == ["bad/1 0", "m/1 0", "odd/1 0", "wide/1 0"]  # not tried again


async def test_broken_folder_is_advertised_as_failed(rig: Rig) -> None:
    strays = ("no model\nname/1/model.onnx", f"huge/{'9' * 40}/model.onnx", "broken/capamesh.toml")
    for stray in strays:
        put(rig.folder, stray, b"")
    put(rig.folder, "m/1/model.onnx")
    rig.start(poll_s=0)
    await rig.ready("m/1")
    assert "model_refused" in rig.log.events
    assert rig.states(FAILED) == ["broken/0", "huge/0", "no model name/1"]
    assert all(one.reason for one in rig.models.offers() if one.state is FAILED)


async def test_all_versions_fail_until_refused_settings_are_mended(rig: Rig) -> None:
    rig.has(refused=[Refused("m", "", "'m' has no version folder")])
    rig.start()
    await rig.until(lambda: rig.states(FAILED) == ["m/0"])
    rig.has(refused=[Refused("m", "", "capamesh.toml is not TOML", ("1", "2"))])
    await rig.until(lambda: rig.states(FAILED) == ["m/1", "m/2"])  # the first has the place
    assert rig.state("m", "2") == (FAILED, "capamesh.toml is not TOML")
    rig.has(refused=[Refused("m", "", "'m' has no version folder")])
    await rig.followed()
    assert rig.states(FAILED) == ["m/1", "m/2"]  # known still
    many = [Refused(f"r{number:03}", "", "no version folder") for number in range(200)]
    rig.has(source_of("m"), refused=many)
    await rig.ready("m/1")
    await rig.followed()
    assert len(rig.states(FAILED)) == MAX_SHOWN  # the log tells of all
    assert rig.log.events.count("model_refused") == 200 + 3  # each once
    rig.has()
    await rig.until(lambda: not rig.models.offers())


async def test_folder_that_cannot_be_read_at_the_start_ends_the_worker(rig: Rig) -> None:
    rig.found = ConfigError("it cannot be read")
    rig.start()
    assert rig._task is not None
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(LIMIT_S):
            await rig._task
    assert [str(error) for error in caught.value.exceptions] == ["it cannot be read"]


async def test_load_is_marked_and_its_memory_is_off_the_budget(rig: Rig, tmp_path: Path) -> None:
    page = InFlightPage.create(tmp_path / "page")
    rig.marks = InFlightJournal(page)
    seen: list[list[Marked]] = []
    rig.device.during_load = lambda _: seen.append(page.marked())
    rig.device.errors["n/1"] = RuntimeError("odd")
    m, n = source_of("m", size_bytes=100), source_of("n", digest="1")
    rig.has(m, n, source_of("wide"))
    rig.start()
    await rig.ready("m/1")
    await rig.followed()
    loading = [[Marked(one.name, "1", Phase.LOADING, one.digest)] for one in (m, n)]
    assert seen[:2] == loading
    assert page.marked() == []
    assert (len(page._records), rig.budget.models_bytes) == (1, 100)
    rig.has(source_of("m", digest="2", size_bytes=50), n, source_of("wide"))
    await rig.serves("m", "2")
    await rig.until(lambda: (len(page._records), rig.budget.models_bytes) == (1, 50))
    assert await rig.unload("m") == "done"
    await rig.until(lambda: (page._records, rig.budget.models_bytes) == ({}, 0))


async def test_load_that_never_ends_bears_the_blame_alone(rig: Rig, tmp_path: Path) -> None:
    page = InFlightPage.create(tmp_path / "page")
    rig.marks = InFlightJournal(page)
    rig.marks.begin(rig.marks.number("busy", "1", ""), Phase.RUNNING)
    gate = threading.Event()
    rig.device.during_load = lambda _: gate.wait(LIMIT_S)
    bad = source_of("bad", digest="1")
    rig.has(bad)
    rig.start(load_limit_s=0.001)
    await rig.until(lambda: rig.stuck)
    (why,) = rig.stuck
    assert (
        why == "loading bad/1 has taken more than the 0.001 s that this node allows (--load-limit)"
    )
    gate.set()
    await rig.ready("bad/1")  # too late: its worker is about to end
    assert page.marked() == [Marked("bad", "1", Phase.LOADING, bad.digest)]


# following the folder


async def test_folder_is_followed_and_costs_no_word_where_nothing_changes(rig: Rig) -> None:
    rig.has()
    rig.start()
    await rig.followed()
    assert (rig.reported, rig.models.offers(), rig.log.events) == ([[]], (), ["no_models"])
    rig.has(source_of("m"))
    await rig.ready("m/1")
    reported = len(rig.reported)
    await rig.followed()
    assert len(rig.reported) == reported
    assert rig.before is rig.found  # so that no file is read again
    rig.found = ConfigError("it cannot be read")
    await rig.logged("models_folder_unreadable")
    assert (rig.states(READY), len(rig.reported)) == (["m/1"], reported)
    rig.has(source_of("m"), source_of("m", "2"), source_of("n"))
    await rig.ready("m/1", "m/2", "n/1")
    assert rig.hosted("m").version == "2"
    assert rig.device.loaded == ["m/1 0", "m/2 0", "n/1 0"]


async def test_signature_that_comes_or_goes_is_offered_without_a_load(rig: Rig) -> None:
    await rig.serve(source_of("m"))
    signed = replace(source_of("m"), signed=b"s" * 96, also_signed=(b"t" * 96,))
    for source in (signed, source_of("m")):
        reported = len(rig.reported)
        rig.has(source)
        await rig.followed()
        offer = rig.models.offer((ModelName("m"), ModelVersion("1")))
        assert (offer.signed, offer.also_signed) == (source.signed, source.also_signed)
        assert len(rig.reported) == reported + 1
    assert rig.device.loaded == ["m/1 0"]


@pytest.mark.parametrize("is_changed", [True, False], ids=["changed", "gone"])
async def test_model_that_changes_or_goes_ends_its_requests(rig: Rig, is_changed: bool) -> None:
    new, n = source_of("m", digest="2"), source_of("n")
    await rig.serve(source_of("m", digest="1"), n)
    old = rig.device.models["m/1"]
    old.gate.clear()
    answer = rig.submit("m", 3.0)
    await asyncio.to_thread(old.wait_started)
    found: list[object] = []
    rig.device.during_load = lambda _: found.append(rig.models.find(ModelName("m"), ANY))
    reported = len(rig.reported)
    rig.has(*([new] * is_changed), n)
    if is_changed:
        await rig.serves("m", "2")
        await rig.followed()
        assert all(found)  # the new one is loaded before the old one goes
        assert all(one == ["m/1 ready", "n/1 ready"] for one in rig.reported[reported:])
        assert await rig.value("m", 5.0) == 10.0
        assert rig.device.models["m/1"].ran == [[5]]
    else:
        await rig.ready("n/1")
        assert rig.reported[-1] == ["n/1 ready"]
    assert (old.is_closed, answer.done()) == (False, False)
    old.gate.set()
    async with asyncio.timeout(LIMIT_S):
        assert await answer == [fp32("y", [6.0, 0.0])]
    await rig.until(lambda: old.is_closed)
    assert old.ran == [[3]]
    rig.has(new, n)
    await rig.ready("m/1", "n/1")
    assert not rig.device.models["m/1"].is_closed


async def test_changed_model_that_fails_leaves_the_old_one_serving(rig: Rig) -> None:
    await rig.serve(source_of("m", digest="1"))
    rig.device.errors["m/1"] = ModelInvalid(f"'{rig.folder.resolve()}/m/1/model.onnx' is odd")
    rig.has(source_of("m", digest="2"))
    await rig.logged("model_failed")
    assert rig.state("m") == (READY, f"{OUTDATED}'m/1/model.onnx' is odd")
    await rig.serves("m", "1")
    assert await rig.value("m") == 2.0
    assert rig.device.loaded == ["m/1 1", "m/1 2"]
    assert (await rig.load("m")).startswith("model_unavailable: ")
    assert rig.states(READY) == ["m/1"]
    del rig.device.errors["m/1"]
    rig.has(source_of("m", digest="3"))
    await rig.serves("m", "3")
    assert rig.state("m") == (READY, "")


@pytest.mark.parametrize("version", ["1", ""])
async def test_model_whose_files_are_refused_goes_on_as_it_was(rig: Rig, version: str) -> None:
    await rig.serve(source_of("m"), source_of("n"))
    rig.has(source_of("n"), refused=[Refused("m", version, "capamesh.toml is not TOML")])
    await rig.logged("model_refused")
    assert rig.state("m") == (READY, f"{OUTDATED}capamesh.toml is not TOML")
    assert rig.state("n") == (READY, "")
    assert await rig.value("m") == 2.0
    rig.has(source_of("m"), source_of("n"))
    await rig.followed()
    assert rig.state("m") == (READY, "")
    assert rig.device.loaded == ["m/1 0", "n/1 0"]
    assert rig.log.events.count("model_refused") == 1


async def test_model_is_tried_again_when_its_files_are_as_before(rig: Rig) -> None:
    rig.has(source_of("m"), source_of("n"))
    rig.device.errors["m/1"] = BROKEN
    rig.device.errors["n/1"] = ContentChanged("'n/1/model.onnx' was changed while it was read")
    rig.start()
    await rig.until(lambda: rig.states(FAILED) == ["m/1", "n/1"])
    assert rig.state("n")[1] == "'n/1/model.onnx' was changed while it was read"
    await rig.until(lambda: rig.device.loaded.count("n/1 0") > 1)  # its files are as before
    del rig.device.errors["n/1"]
    await rig.ready("n/1")
    rig.has(source_of("n"), refused=[Refused("m", "1", "it has 0 bytes")])
    await rig.until(lambda: rig.state("m") == (FAILED, "it has 0 bytes"))
    assert rig.device.loaded.count("m/1 0") == 1
    rig.has(source_of("n"), source_of("m"))
    await rig.until(lambda: rig.state("m") == (FAILED, "an operator is unknown"))
    assert rig.device.loaded.count("m/1 0") == 2


# what routers ask


async def test_unloaded_model_stays_so_until_it_is_asked_for_or_its_files_change(rig: Rig) -> None:
    await rig.serve(source_of("m"), source_of("n"))
    assert await rig.unload("m") == "done"
    assert rig.state("m") == (UNLOADED, "unloaded on request")
    assert rig.reported[-1] == ["m/1 unloaded", "n/1 ready"]
    await rig.until(lambda: rig.device.models["m/1"].is_closed)
    rig.has(source_of("m"), source_of("n", digest="2"))  # another's change is not its own
    await rig.until(lambda: "n/1 2" in rig.device.loaded)
    await rig.followed()
    assert rig.state("m")[0] is UNLOADED
    assert await rig.unload("m") == "done"
    assert await rig.load("m") == "done"
    assert rig.state("m") == (READY, "")
    assert await rig.load("m", "1") == "done"
    assert rig.device.loaded.count("m/1 0") == 2  # what is loaded is not loaded again
    outcomes = await asyncio.gather(rig.unload("m"), rig.load("m"), rig.unload("m"))
    assert outcomes == ["done"] * 3
    assert rig.states(READY) == ["n/1"]
    rig.has(source_of("m", digest="3"), source_of("n", digest="2"))
    await rig.ready("m/1", "n/1")


async def test_one_version_or_all_can_be_asked_for_and_those_that_fail_are_named(rig: Rig) -> None:
    await rig.serve(*(source_of("m", str(number)) for number in (1, 2, 3)), poll_s=0)
    assert await rig.unload("m", "2") == "done"
    assert rig.states(READY) == ["m/1", "m/3"]
    assert (await rig.load("m", "2"), await rig.unload("m")) == ("done", "done")
    assert rig.states(READY) == []
    rig.device.errors["m/1"] = BROKEN
    assert await rig.load("m") == (
        "model_unavailable: 1 of 3 versions were not loaded: version 1: an operator is unknown"
    )
    assert rig.reported[-1] == ["m/1 failed", "m/2 ready", "m/3 ready"]
    assert await rig.load("m", "1") == "model_unavailable: an operator is unknown"


async def test_change_that_cannot_be_made_says_why(rig: Rig) -> None:
    rig.has(source_of("bad"), refused=[Refused("odd", "", "capamesh.toml is not TOML")])
    rig.device.errors["bad/1"] = BROKEN
    rig.start(poll_s=0)
    await rig.until(lambda: rig.states(FAILED))
    for outcome in (await rig.load("x", "3"), await rig.unload("x", "3")):
        assert outcome == "model_unavailable: model 'x' version '3' is not in this node's folder"
    assert await rig.load("bad") == "model_unavailable: an operator is unknown"
    refusal = "model 'odd' version 'any' is not in this node's folder: capamesh.toml is not TOML"
    assert await rig.load("odd") == f"model_unavailable: {refusal}"
    rig.found = ConfigError("the model folder cannot be read")
    assert await rig.load("bad") == "config_error: the model folder cannot be read"
    rig.has(source_of("bad"))
    del rig.device.errors["bad/1"]
    assert await rig.load("bad") == "done"
    rig.has(source_of("bad", digest="2"), source_of("new"))
    assert (await rig.load("bad"), await rig.load("new")) == ("done", "done")
    assert rig.device.loaded[-2:] == ["bad/1 2", "new/1 0"]  # what was put there since


async def test_load_without_the_operator_s_leave_is_refused(rig: Rig) -> None:
    await rig.serve(source_of("m"), is_controllable=False)
    for asked in (rig.unload("m"), rig.load("m")):
        with pytest.raises(InvalidRequest, match="does not let routers load or unload"):
            await asked
    assert rig.states(READY) == ["m/1"]


async def test_wanted_model_is_loaded_only_if_memory_was_short(rig: Rig) -> None:
    rig.has(source_of("m"), source_of("q"), source_of("u"))
    rig.start(verdicts=[held("q")])
    await rig.ready("m/1", "u/1")
    assert await rig.unload("u") == "done"
    assert await rig.want("m") == "done"
    for name, why in (
        ("q", "it was loading at three deaths"),
        ("u", "unloaded on request"),
        ("no", "it is not in this node's folder"),
    ):
        refusal = f"model {name!r} version 'any' is not away for want of memory: {why}"
        assert await rig.want(name) == f"model_unavailable: {refusal}"
    assert rig.device.loaded == ["m/1 0", "u/1 0"]


async def test_wanted_model_is_loaded_as_its_files_are_now_or_forgotten(rig: Rig) -> None:
    rig.device.total_bytes = 100
    a, b, c = (source_of(name, size_bytes=80, digest="1") for name in "abc")
    rig.has(a, b, c)
    rig.start(poll_s=0)
    await rig.until(lambda: rig.states(UNLOADED) == ["b/1", "c/1"])
    rig.device.total_bytes = 1_000
    rig.has(a, source_of("b", size_bytes=80, digest="2"))
    assert await rig.want("b") == "done"
    assert rig.device.loaded == ["a/1 1", "b/1 2"]
    assert "removed" in await rig.want("c")
    assert rig.models.offer((ModelName("c"), ModelVersion("1"))) is None


async def test_load_for_a_router_tells_that_it_goes_on_while_its_thread_works(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "TELL_S", 0.001)
    rig.device.total_bytes = 100
    rig.has(*(source_of(name, size_bytes=80) for name in "ab"))
    rig.start(poll_s=0)
    await rig.until(lambda: rig.states(UNLOADED) == ["b/1"])
    rig.device.total_bytes = 1_000
    gate = threading.Event()

    def work(_: str) -> None:
        while not gate.is_set():
            sum(range(1000))

    rig.device.during_load = work
    asked = asyncio.ensure_future(rig.want("b"))
    await rig.until(lambda: rig.state("b")[1].startswith("it is being loaded, for 0.0"))
    assert rig.state("b")[0] is UNLOADED
    assert rig.reported[-1] == ["a/1 ready", "b/1 unloaded"]
    gate.set()
    assert await asked == "done"
    assert rig.state("b") == (READY, "")


async def test_more_changes_than_may_wait_are_refused(rig: Rig) -> None:
    rig.has()
    rig.start(poll_s=0)
    asked = [asyncio.ensure_future(rig.unload("x")) for _ in range(MAX_CHANGES)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="64 changes of models wait already"):
        await rig.unload("x")
    codes = {outcome.partition(":")[0] for outcome in await asyncio.gather(*asked)}
    assert codes == {"model_unavailable"}


# held back


async def test_held_model_says_why_and_is_loaded_once_its_files_change(rig: Rig) -> None:
    rig.has(source_of("m", digest="1"), source_of("n"), source_of("o", digest="2"))
    rig.start(verdicts=[held("m", digest="1"), held("n"), held("o", digest="1")])
    await rig.ready("o/1")  # whose files were replaced before the worker started
    for name in "mn":
        assert rig.state(name) == (FAILED, "it was loading at three deaths")
    assert "model_held" in rig.log.events
    await rig.followed()
    assert rig.device.loaded == ["o/1 2"]
    assert await rig.load("n") == "done"
    rig.has(source_of("m", digest="2"), source_of("n"))
    await rig.ready("m/1", "n/1")
    assert await rig.unload("m") == "done"
    rig.has(source_of("m", digest="3"), source_of("n"))
    await rig.ready("m/1", "n/1")  # what ended a worker once is no reason for ever


# memory


def unused(rig: Rig, *, load_s: float = 0.0, now_s: float | None = None, **seconds: float) -> None:
    """Say how long ago models were used, and that they were loaded in `load_s`: by that they may leave later."""
    now_s = time.monotonic() if now_s is None else now_s
    for name, ago_s in seconds.items():
        rig.hosted(name).load_s = load_s
        rig.hosted(name).runner.last_used_s = now_s - ago_s


def sized(**sizes: int) -> list[ModelSource]:
    return [of_size(name, size) for name, size in sizes.items()]


def stop_room_clock(monkeypatch: pytest.MonkeyPatch, now_s: float) -> None:
    """Have it be `now_s` for good where it is decided what may give way."""
    monkeypatch.setattr(room_module, "time", SimpleNamespace(monotonic=lambda: now_s))


async def test_longest_unused_model_gives_way_to_one_that_is_asked_for(rig: Rig) -> None:
    rig.device.total_bytes = 130
    a, b, c, d = sized(a=40, b=40, c=40, d=40)
    await rig.serve(a, b, c)
    unused(rig, a=300, b=500, c=400)
    rig.has(a, b, c, d)
    await rig.logged("model_has_no_room")
    why = "it needs about 44 bytes of memory and 10 are free: another model gives way to it when a request"
    assert rig.state("d") == (UNLOADED, f"{why} comes for it")
    assert rig.states(READY) == ["a/1", "b/1", "c/1"]
    seen: list[list[str]] = []
    rig.device.during_load = lambda _: seen.append(rig.reported[-1])
    assert await rig.load("d") == "done"
    assert seen == [["a/1 ready", "b/1 unloaded", "c/1 ready", "d/1 unloaded"]]
    assert rig.states(READY) == ["a/1", "c/1", "d/1"]
    assert rig.state("b") == (UNLOADED, "unloaded to make room for d/1")
    assert rig.device.models["b/1"].is_closed
    await rig.followed()  # it does not come back by itself
    assert rig.device.loaded.count("b/1 0") == 1
    unused(rig, a=10, c=20, d=15)
    assert await rig.want("b") == "done"
    assert rig.states(READY) == ["a/1", "b/1", "d/1"]
    assert await rig.want("b") == "done"  # another router asks, too
    assert rig.device.loaded.count("b/1 0") == 2
    assert await rig.unload("a") == "done"
    rig.has(a, b, d, of_size("e", 40))  # for which there is room now
    await rig.ready("b/1", "d/1", "e/1")


async def test_evicted_models_come_back_when_the_one_they_gave_way_to_fails(rig: Rig) -> None:
    rig.device.total_bytes = 100
    await rig.serve(*sized(a=40, b=40), poll_s=0)
    rig.has(*sized(a=40, b=40, c=80))
    unused(rig, a=10, b=20)
    rig.device.errors["c/1"] = BROKEN
    assert await rig.load("c") == "model_unavailable: an operator is unknown"
    assert rig.states(READY) == ["a/1", "b/1"]
    assert rig.device.loaded == ["a/1 0", "b/1 0", "c/1 0", "b/1 0", "a/1 0"]
    assert await rig.value("a") == 2.0
    del rig.device.errors["c/1"]
    unused(rig, a=10, b=20)
    assert await rig.load("c") == "done"
    assert rig.states(READY) == ["c/1"]


@pytest.mark.parametrize("size", [60, 85])
async def test_evicted_model_comes_back_once_if_in_vain(rig: Rig, size: int) -> None:
    rig.device.total_bytes = 100
    rig.has(*sized(a=size, b=80))
    rig.start()
    await rig.ready("a/1")
    rig.device.kept_bytes = 30  # 70 are free, and the first load of a may have asked for 93
    unused(rig, a=100)
    why = "it needs about 88 bytes of memory and 70 are free: unload a model, or allow more (--memory-limit)"
    assert await rig.want("b") == f"model_unavailable: {why}"
    assert rig.state("b") == (FAILED, why)
    await rig.followed()
    assert rig.device.loaded == ["a/1 0", "a/1 0"]
    assert rig.states(READY) == ["a/1"]
    rig.device.total_bytes = 1_000  # now nothing has to give way
    await rig.ready("a/1", "b/1")


@pytest.mark.parametrize(
    ("load_s", "may_s"), [(0.0, LEAST_IDLE_S), (2.0, 2.0 * IDLE_LOADS), (600.0, MOST_IDLE_S)]
)
async def test_model_used_of_late_does_not_give_way_and_the_refusal_says_when_it_will(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, load_s: float, may_s: float
) -> None:
    rig.has(*sized(a=60, b=60))
    rig.start(memory_limit_bytes=100)
    await rig.ready("a/1")
    now_s = time.monotonic()
    stop_room_clock(monkeypatch, now_s)
    unused(rig, load_s=load_s, now_s=now_s, a=may_s - 3.9)
    why = (
        "overloaded: it needs about 66 bytes of memory and 40 are free, and others that could give"
    )
    assert await rig.want("b") == f"{why} way to it are in use; in 4 s they may not be"
    assert rig.states(READY) == ["a/1"]
    assert rig.state("b")[0] is UNLOADED
    unused(rig, load_s=load_s, now_s=now_s, a=may_s + 0.1)
    assert await rig.want("b") == "done"


async def test_operator_s_limit_is_for_models_and_not_for_the_rest_of_the_process(rig: Rig) -> None:
    rig.device.kept_bytes = 500_000
    rig.has(*sized(a=40, b=40, c=40))
    rig.start(memory_limit_bytes=100)
    await rig.ready("a/1", "b/1")
    await rig.followed()
    assert rig.state("c")[0] is UNLOADED
    assert "needs about 44 bytes of memory and 20 are free" in rig.state("c")[1]
    rig.has(*sized(b=40, d=50))
    await rig.ready("b/1", "d/1")


async def test_models_do_not_give_way_where_all_of_them_would_not_be_enough(rig: Rig) -> None:
    rig.device.total_bytes = 100
    small = sized(a=20, b=20)
    await rig.serve(*small)
    unused(rig, a=100, b=200)
    rig.has(*small, of_size("huge", 95))
    await rig.logged("model_has_no_room")
    assert rig.state("huge")[0] is FAILED
    reported = len(rig.reported)
    why = "it needs about 104 bytes of memory and 60 are free: unload a model, or allow more"
    assert await rig.load("huge") == f"model_unavailable: {why} (--memory-limit)"
    assert rig.states(READY) == ["a/1", "b/1"]
    assert len(rig.reported) == reported + 1  # it is told of when it is asked for alone
    assert rig.log.events.count("model_has_no_room") == 2


async def test_pinned_busy_and_needed_models_and_pipelines_never_give_way(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.device.total_bytes = 150
    pinned = of_size("pinned", 40, pinned=True)
    sources = (*sized(busy=40, member=40), pipeline("p", "member"), pinned)
    await rig.serve(*sources)
    unused(rig, busy=1000, member=1000, p=1000, pinned=1000)
    busy = rig.device.models["busy/1"]
    busy.gate.clear()
    answer = rig.submit("busy")
    unused(rig, busy=1000)
    rig.has(*sources, of_size("z", 60))
    assert "needs about 66 bytes" in await rig.load("z")
    assert rig.states(READY) == ["busy/1", "member/1", "p/1", "pinned/1"]
    before_s = time.monotonic()
    busy.gate.set()
    async with asyncio.timeout(LIMIT_S):
        await answer
    used_s = rig.hosted("busy").runner.last_used_s
    assert used_s >= before_s
    stop_room_clock(monkeypatch, used_s)
    assert "in use; in 5 s they may not be" in await rig.load("z")  # its run has just ended
    unused(rig, busy=1000)
    assert await rig.load("z") == "done"
    assert rig.state("busy")[0] is UNLOADED
    assert rig.states(READY) == ["member/1", "p/1", "pinned/1", "z/1"]


async def test_new_file_needs_room_beside_the_old_one(rig: Rig) -> None:
    rig.device.total_bytes = 100
    await rig.serve(of_size("a", 60, digest="1"))
    unused(rig, a=1000)
    rig.has(of_size("a", 60, digest="2"))
    await rig.logged("model_has_no_room")
    assert rig.hosted("a").source.digest.endswith("1")
    rig.device.total_bytes = 200
    await rig.serves("a", "2")


# pipelines


def away(step: int, model: str) -> tuple[ModelState, str]:
    why = f"step {step}: model {model} is not loaded on this device; its own state tells why"
    return FAILED, why


async def test_pipeline_is_made_after_its_models_and_unloaded_alone(rig: Rig) -> None:
    a, b, m = pipeline("a", "b", "m"), pipeline("b", "m", "z"), source_of("m")
    rig.has(a, b, m)
    rig.start()
    await rig.ready("m/1")
    await rig.followed()
    assert rig.state("b") == away(2, "z")
    rig.has(a, b, m, source_of("z"))
    await rig.ready("a/1", "b/1", "m/1", "z/1")
    assert rig.device.loaded == ["m/1 0", "z/1 0", "b/1 0", "a/1 0"]
    assert await rig.value("a") == 8.0
    assert await rig.unload("a") == "done"
    assert await rig.unload("m") == "done"
    assert await rig.load("m") == "done"
    assert rig.state("a") == (UNLOADED, "unloaded on request")
    await rig.ready("b/1", "m/1", "z/1")
    circle = (pipeline("x", "y"), pipeline("y", "x"))
    rig.has(a, b, source_of("m", digest="2"), source_of("z"), *circle)
    assert await rig.load("a") == "done"
    await rig.serves("m", "2")
    await rig.followed()
    assert rig.states(FAILED) == ["x/1", "y/1"]
    assert [one for one in rig.device.loaded if one[0] in "ab"][-2:] == ["b/1 0", "a/1 0"]
    assert await rig.value("a") == 8.0


async def test_pipelines_serve_while_a_model_of_theirs_changes(rig: Rig) -> None:
    outer, inner = pipeline("a", "p"), pipeline("p", "m", "m")
    await rig.serve(outer, source_of("m", digest="1"), source_of("other"), inner)
    old = rig.device.models["m/1"]
    old_pipeline = rig.hosted("a").prepared.loaded
    old.gate.clear()
    under_way = rig.submit("a", 1.0)  # it will need the old model once more
    await asyncio.to_thread(old.wait_started)
    rig.has(outer, source_of("m", digest="2"), source_of("other", digest="2"), inner)

    closed: list[bool] = []
    rig.device.during_load = lambda _: closed.append(old.is_closed)
    await rig.until(lambda: rig.hosted("a").prepared.loaded is not old_pipeline)
    assert closed == [False, False]  # of m and of the other; no pipeline has been replaced yet
    assert rig.device.loaded[4:] == ["m/1 2", "other/1 2", "p/1 0", "a/1 0"]
    assert await rig.value("a", 3.0) == 12.0
    assert rig.device.models["m/1"].ran == [[3], [6]]
    assert not old.is_closed
    old.gate.set()
    async with asyncio.timeout(LIMIT_S):
        assert await under_way == [fp32("y", [4.0, 0.0])]
    await rig.until(lambda: old.is_closed)
    assert await rig.value("a", 3.0) == 12.0


async def test_pipeline_goes_with_its_model_and_comes_back_with_it(rig: Rig) -> None:
    await rig.serve(pipeline("a", "p"), source_of("m"), pipeline("p", "m", digest="1"))
    assert await rig.unload("m") == "done"
    assert (rig.state("p"), rig.state("a")) == (away(1, "m"), away(1, "p"))
    assert rig.reported[-1] == ["a/1 failed", "m/1 unloaded", "p/1 failed"]
    await rig.until(lambda: rig.device.models["m/1"].is_closed)
    assert await rig.load("m") == "done"
    assert rig.states(READY) == ["a/1", "m/1", "p/1"]
    assert await rig.value("a") == 2.0
    # a change of its own that is wrong leaves it as it was
    rig.has(pipeline("a", "p"), source_of("m"), pipeline("p", "m", "nobody", digest="2"))
    await rig.logged("model_failed")
    assert rig.states(READY) == ["a/1", "m/1", "p/1"]
    assert await rig.value("a") == 2.0
    rig.has(pipeline("a", "p"), pipeline("p", "m"))
    await rig.until(lambda: rig.states(FAILED) == ["a/1", "p/1"])
    assert [one.name for one in rig.models.offers()] == ["a", "p"]


# without memory for a moment


IN_WARM_UP = ModelInvalid("warm-up 1 does not run")
IN_WARM_UP.__cause__ = OutOfMemory("ONNX Runtime: std::bad_alloc")


@pytest.mark.parametrize(
    "error", [MemoryError("unable to allocate"), IN_WARM_UP], ids=["Python's", "in a warm-up"]
)
async def test_model_that_found_no_memory_is_away_until_more(rig: Rig, error: Exception) -> None:
    text = source_of("text")  # whose error's text alone is of memory
    rig.has(source_of("bad"), source_of("m"), text)
    rig.device.errors["bad/1"] = error
    rig.device.errors["text/1"] = ModelInvalid("no operator is called 'out of memory'")
    rig.start()
    await rig.ready("m/1")
    await rig.followed()
    assert rig.state("text") == (FAILED, "no operator is called 'out of memory'")
    state, reason = rig.state("bad")
    assert (state, str(error) in reason) == (UNLOADED, True)
    ran_out = "the memory ran out while it was loaded: it needs more than 1000000 bytes of memory"
    assert reason.startswith(ran_out)
    assert "model_has_no_room" in rig.log.events
    wanted = await rig.want("bad")
    assert wanted.startswith("overloaded: it needs about 1100001 bytes of memory and ")
    assert wanted.endswith(" are free: it ran out when it was loaded before")
    assert rig.state("bad")[0] is UNLOADED
    assert rig.device.loaded.count("bad/1 0") == 1  # tried in vain once
    del rig.device.errors["bad/1"]
    rig.device.total_bytes = 1_200_000
    await rig.ready("bad/1", "m/1")  # nobody had to ask


async def test_run_without_memory_is_repeated_with_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortage, "PAUSE_S", 0.0)
    monkeypatch.setattr(shortage, "AGAIN_S", 3600.0)  # it is not taken again while a test looks
    reserve = Reserve(NullLog())
    reserve.take()
    held: list[bool] = []

    async def run() -> None:
        held.append(reserve.is_held)
        if len(held) < 3:
            raise MemoryError("unable to allocate")

    await reserve.lasting(run)
    assert held == [True, False, False]
