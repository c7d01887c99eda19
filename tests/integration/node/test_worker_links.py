"""A worker's parts in one process, asked over TLS links: real models, real hosting, real threads."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fleet_fakes import NullLog
from link_awaiting import probe, request
from link_sockets import HOST, LIMIT_S, Members, Side, within
from onnx import helper
from patience import eventually
from tiny_llama import write_decoder_folder

from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.devices.in_flight_page import InFlightPage
from capamesh.node.generation.slots import Logits
from capamesh.node.models.eviction import _may_leave_s
from capamesh.node.models.lifecycle import ModelLifecycle
from capamesh.node.models.preparation import Preparation
from capamesh.node.models.registry import HostedModel, ModelRegistry
from capamesh.node.models.shortage import Reserve
from capamesh.node.profiling.profile_cache import ProfileCache
from capamesh.node.repository import ModelSource
from capamesh.node.runtime.api import LoadedModel
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder
from capamesh.node.scheduling import MemoryBudget
from capamesh.node.scheduling.generation_scheduler import GenerationScheduler
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import (
    ControlAction,
    ControlCall,
    InferAnswer,
    InferCall,
    LoadReport,
    decode_answer,
    decode_load,
    encode_call,
    encode_control,
    encode_probe,
)
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import PartsHandler
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.network import Role
from capamesh.protocol.tasks import GENERATION, PARTS
from capamesh.protocol.tensors import Datatype, Limits, Tensor, join_elements, split_elements

P = onnx.TensorProto
node = helper.make_node
value = helper.make_tensor_value_info
ANY = ModelVersion("")
AT_ONCE = 64
WEIGHTS = np.arange(-6, 6, dtype=np.float32).reshape(4, 3)
"""Whole numbers, so that sums are exact in whatever order a kernel adds."""
FOR_EVER = 2**40
"""Turns of a loop that nobody can wait for."""


def write(
    root: Path,
    name: str,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    toml: str = "",
) -> None:
    """Put a model into the folder at once, as if it had been there for a while."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    folder = root / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    if toml:
        (folder.parent / "capamesh.toml").write_text(toml)
    new = root / f".{name}"
    new.write_bytes(model.SerializeToString())
    os.utime(new, (1_000_000, 1_000_000))
    new.replace(folder / "model.onnx")


def write_dense(root: Path, name: str, *, scale: float = 1.0, width: int | str = 4) -> None:
    """`y = x W`. With an open width its runs are of no known length, and go to threads."""
    write(
        root,
        name,
        [value("x", P.FLOAT, ["N", width])],
        [value("y", P.FLOAT, ["N", 3])],
        [node("MatMul", ["x", "w"], ["y"])],
        [onnx.numpy_helper.from_array(WEIGHTS * np.float32(scale), "w")],
        # an open width cannot be guessed
        "" if isinstance(width, int) else "[[warm_up]]\nshapes = {x = [1, 4]}\n",
    )


def write_centred(root: Path) -> None:
    """`y = x` minus the mean of the request's rows: a batch would mix requests."""
    write(
        root,
        "centred",
        [value("x", P.FLOAT, ["N", 4])],
        [value("y", P.FLOAT, ["N", 4])],
        [node("ReduceMean", ["x", "axes"], ["mean"]), node("Sub", ["x", "mean"], ["y"])],
        [onnx.numpy_helper.from_array(np.array([0]), "axes")],
    )


def write_total(root: Path) -> None:
    """`y = h_next = h + x`: the sum of what a sequence has sent."""
    write(
        root,
        "total",
        [value("x", P.FLOAT, ["N", 4]), value("h", P.FLOAT, ["N", 4])],
        [value("y", P.FLOAT, ["N", 4]), value("h_next", P.FLOAT, ["N", 4])],
        [node("Add", ["x", "h"], ["h_next"]), node("Identity", ["h_next"], ["y"])],
        toml='[[sequence.state]]\ninput = "h"\noutput = "h_next"\n',
    )


def write_padded(root: Path) -> None:
    """`sum` of whole numbers of any length, by a mask that the node makes; `y` has the request's length."""
    write(
        root,
        "padded",
        [value("ids", P.INT64, ["N", "L"]), value("mask", P.INT64, ["N", "L"])],
        [value("y", P.INT64, ["N", "L"]), value("sum", P.INT64, ["N", 1])],
        [node("Mul", ["ids", "mask"], ["y"]), node("ReduceSum", ["y", "axes"], ["sum"])],
        [onnx.numpy_helper.from_array(np.array([1]), "axes")],
        # a padding that would be seen in the sum
        '[[batching.ragged]]\ninput = "ids"\npad = 1000000\nmask = "mask"\noutputs = ["y"]\n',
    )


def write_text(root: Path) -> None:
    write(
        root,
        "text",
        [value("x", P.STRING, ["N", 1])],
        [value("y", P.STRING, ["N", 1])],
        [node("Identity", ["x"], ["y"])],
    )


def write_loop(root: Path) -> None:
    """`y`: how many of `turns` turns a loop has made; each is quick, so that a run can be stopped soon."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["goes"]), node("Add", ["count", "one"], ["more"])],
        "body",
        [value("at", P.INT64, []), value("go", P.BOOL, []), value("count", P.INT64, [1])],
        [value("goes", P.BOOL, []), value("more", P.INT64, [1])],
    )
    write(
        root,
        "loop",
        [value("turns", P.INT64, [1])],
        [value("y", P.INT64, [1])],
        [
            node("Squeeze", ["turns"], ["trips"]),
            node("Loop", ["trips", "", "zero"], ["y"], body=body),
        ],
        [
            onnx.numpy_helper.from_array(np.array([0]), "zero"),
            onnx.numpy_helper.from_array(np.array([1]), "one"),
        ],
    )


class ResponseHandler:
    """A router's end of a link to the worker."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def infer(
        self,
        model: str,
        *inputs: Tensor,
        outputs: tuple[str, ...] = (),
        budget_ms: int | None = None,
        sequence: SequenceMark | None = None,
    ) -> InferAnswer:
        call = InferCall(ModelName(model), ANY, inputs, outputs, sequence=sequence)
        answer = await request(self.link, *encode_call(call, budget_ms))
        return decode_answer(answer.meta, answer.body, Limits())

    async def outputs(self, model: str, *inputs: Tensor, **how: Any) -> list[Any]:
        answer = await self.infer(model, *inputs, **how)
        return [output.to_numpy().tolist() for output in answer.outputs]

    async def outputs_at_last(self, model: str, *inputs: Tensor) -> list[Any]:
        """Return what `outputs` does; ask again while the node has too much to do, which a busy machine may bring about."""
        while True:
            with suppress(Overloaded):
                return await self.outputs(model, *inputs)

    async def change(self, action: ControlAction, model: str) -> None:
        await within(request(self.link, encode_control(ControlCall(action, ModelName(model), ANY))))

    async def load(self, model: str = "") -> LoadReport:
        meta = encode_probe(ModelName(model), ANY) if model else b""
        return decode_load(await within(probe(self.link, meta)))

    async def until(self, model: str, *, running: int) -> None:
        """Ask again and again until so many requests run."""
        while True:
            load = await self.load(model)
            if load.in_flight - load.queued == running:
                return

    async def loop(self, turns: int, **how: Any) -> list[Any]:
        return await self.outputs("loop", tensor("turns", [turns], np.int64), **how)


class Town:
    """A worker that hosts a folder, and routers that ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"
        self.folder.mkdir()
        self.page = InFlightPage.create(folder / "page")
        self.members = Members(folder / "members")
        self.models = ModelRegistry()
        self.backend = OnnxBackend("cpu")
        self.stuck: list[str] = []
        self.log = NullLog()
        self._cache = ProfileCache(folder / "profiles")
        self._news = asyncio.Event()
        self._node = self.members.join(Role.NODE)
        self._address = ""
        self.service: WorkerService
        self.lifecycle: ModelLifecycle

    def build(self, watchdog_s: float) -> None:
        preparation = Preparation(
            self.backend, self._cache, circumstances={"device": "cpu"}, clock=time.perf_counter
        )
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
            preparation,
            budget=MemoryBudget(0),
            marks=InFlightJournal(self.page),
            on_change=self._news.set,
            on_stuck=self.stuck.append,
            on_moved=lambda: None,
            on_survived=lambda: None,
            reserve=Reserve(self.log),  # type: ignore[arg-type]
            log=self.log,  # type: ignore[arg-type]
        )
        self.service = WorkerService(
            self.models,
            self.members.trust(),
            control=self.lifecycle.change,
            clock=time.monotonic,
            later=asyncio.get_running_loop().call_later,
            limits=Limits(),
            log=self.log,  # type: ignore[arg-type]
        )

    async def serve(self) -> asyncio.Server:
        transport = self.members.transport(self._node, None, None)
        server = await transport.listen(HOST, 0, lambda: self.service)
        self._address = f"{HOST}:{server.sockets[0].getsockname()[1]}"
        return server

    async def asker(self) -> ResponseHandler:
        transport = self.members.transport(self.members.join(Role.ROUTER), None, None)
        return ResponseHandler(
            await transport.dial(self._address, Side(self.members.trust(), Role.NODE))
        )

    async def until_ready(self, *names: str) -> None:
        async with asyncio.timeout(LIMIT_S):
            while {hosted.source.name for hosted in self.models} != set(names):
                self._news.clear()
                await self._news.wait()

    def counts(self, model: str) -> Any:
        return next(one for one in self.models.counts() if one["name"] == model)

    async def at_rest(self) -> None:
        """Wait until nothing is under way, and check that nothing is left of it."""
        for hosted in self.models:
            await within(hosted.runner.wait_idle())
        assert self.service._requests == {}
        assert self.page.marked() == []
        assert self.stuck == []


@pytest.fixture
async def town(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Town]:
    """A town with an empty folder; `indirect` gives the watchdog's seconds."""
    town = Town(tmp_path)
    town.build(watchdog_s=getattr(request, "param", 60.0))
    server = await town.serve()
    lifecycle = asyncio.create_task(town.lifecycle.run())
    yield town
    lifecycle.cancel()
    await asyncio.gather(lifecycle, return_exceptions=True)
    server.close()
    town.service.close("the test is over")
    for hosted in town.models:
        await within(hosted.runner.wait_idle())  # links are gone: what they asked for is stopped
    town.lifecycle.close()


def tensor(name: str, values: Any, dtype: Any = np.float32) -> Tensor:
    if dtype is str:
        return Tensor.from_numpy(name, np.array(values, object))
    return Tensor.from_numpy(name, np.array(values, dtype))


def rows(number: int) -> list[list[float]]:
    """Return the rows of request `number`, one to three, unlike those of any other."""
    return [[number, row, number * 2 + row, 1] for row in range(1 + number % 3)]


async def gather(*requests: Any) -> list[Any]:
    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*requests)


@pytest.mark.parametrize("width", [4, "W"], ids=["in the loop", "in threads"])
async def test_many_requests_at_once_each_get_their_own_answer(
    town: Town, width: int | str
) -> None:
    write_dense(town.folder, "dense", width=width)
    await town.until_ready("dense")
    asker = await town.asker()
    hosted = town.models.find(ModelName("dense"), ANY)
    assert hosted is not None
    asked = [tensor("x", rows(number)) for number in range(AT_ONCE)]
    for _ in range(5):
        answers = await gather(*(asker.outputs_at_last("dense", x) for x in asked))
        for number, (given,) in enumerate(answers):
            assert given == (np.array(rows(number), np.float32) @ WEIGHTS).tolist()
            (direct,) = hosted.prepared.loaded.run([asked[number]])
            assert given == direct.to_numpy().tolist()
    counts = town.counts("dense")
    assert counts["requests"]["ok"] == 5 * AT_ONCE
    assert counts["requests"].keys() <= {"ok", Overloaded.code}
    assert counts["rows"] == 5 * sum(len(rows(number)) for number in range(AT_ONCE))
    assert counts["batches"] < 5 * AT_ONCE  # they did share runs
    assert hosted.prepared.is_predictable is (width == 4)
    assert hosted.runner._threads or width == 4
    await town.at_rest()


async def test_models_of_all_kinds_are_served_side_by_side_over_two_links(town: Town) -> None:
    write_dense(town.folder, "dense")
    write_centred(town.folder)
    write_total(town.folder)
    write_padded(town.folder)
    write_text(town.folder)
    (town.folder / "chain").mkdir()
    (town.folder / "chain" / "capamesh.toml").write_text(
        '[[step]]\nmodel = "centred"\ninputs = {x = "x"}\noutputs = {y = "middle"}\n'
        '[[step]]\nmodel = "dense"\ninputs = {x = "middle"}\noutputs = {y = "y"}\n'
    )
    await town.until_ready("dense", "centred", "total", "padded", "text", "chain")
    is_batching = {hosted.source.name: hosted.prepared.plan.is_batching for hosted in town.models}
    assert is_batching == {
        "dense": True,
        "centred": False,
        "total": True,
        "padded": True,
        "text": True,
        "chain": False,
    }
    askers = [await town.asker(), await town.asker()]

    async def dense(asker: ResponseHandler, number: int) -> None:
        x = np.array(rows(number), np.float32)
        assert await asker.outputs("dense", tensor("x", x)) == [(x @ WEIGHTS).tolist()]

    async def centred(asker: ResponseHandler, number: int) -> None:
        x = np.array(rows(number), np.float32)
        assert await asker.outputs("centred", tensor("x", x)) == [(x - x.mean(0)).tolist()]

    async def chain(asker: ResponseHandler, number: int) -> None:
        x = np.array(rows(number), np.float32)
        (given,) = await asker.outputs("chain", tensor("x", x))
        np.testing.assert_allclose(given, (x - x.mean(0)) @ WEIGHTS, atol=1e-4)

    async def padded(asker: ResponseHandler, number: int) -> None:
        ids = [list(range(number, number + 1 + number % 7))]
        given = await asker.outputs("padded", tensor("ids", ids, np.int64))
        assert given == [ids, [[sum(ids[0])]]]

    async def text(asker: ResponseHandler, number: int) -> None:
        texts = [[f"text {number}"], ["\u00e4" * (number % 5)]]
        (given,) = await asker.outputs("text", tensor("x", texts, str))
        assert given == [[one.encode()] for (one,) in texts]

    async def total(asker: ResponseHandler, number: int) -> None:
        so_far = np.zeros(4, np.float32)
        for step in range(4):
            x = np.array([[number, step, 1, 0]], np.float32)
            so_far = so_far + x[0]
            mark = SequenceMark(number, is_start=step == 0, is_end=step == 3)
            given = await asker.outputs("total", tensor("x", x), sequence=mark)
            assert given == [[so_far.tolist()]]

    kinds = (dense, centred, chain, padded, text, total)
    await gather(*(kind(askers[number % 2], number) for number in range(32) for kind in kinds))
    for name, batching in is_batching.items():
        counts = town.counts(name)
        assert list(counts["requests"]) == ["ok"]
        assert (counts["batches"] < counts["requests"]["ok"]) is batching
    await town.at_rest()


async def test_bad_requests_among_good_ones_harm_nobody_else(town: Town) -> None:
    write(
        town.folder,
        "pick",
        [value("i", P.INT64, ["N", 1])],
        [value("y", P.FLOAT, ["N", 1])],
        [node("Gather", ["table", "i"], ["y"])],
        [onnx.numpy_helper.from_array(np.arange(100, dtype=np.float32) / 2, "table")],
    )
    await town.until_ready("pick")
    asker = await town.asker()

    async def ask(number: int) -> str | float:
        at = 1000 if number % 5 == 0 else number
        try:
            ((given,),) = await asker.outputs("pick", tensor("i", [[at]], np.int64))
        except CapameshError as error:
            return error.code
        return float(given[0])

    for turn in range(5):
        numbers = range(turn, turn + 20)
        expected = ["invalid_request" if number % 5 == 0 else number / 2 for number in numbers]
        assert await gather(*map(ask, numbers)) == expected
    counts = town.counts("pick")
    assert counts["requests"] == {"ok": 80, "invalid_request": 20}
    hosted = town.models.find(ModelName("pick"), ANY)
    assert hosted is not None
    assert hosted.runner.scheduler.plan.is_batching
    with pytest.raises(InvalidRequest):
        await within(asker.outputs("pick", tensor("x", [[1]])))
    await town.at_rest()


async def test_cancelled_request_s_run_is_stopped_and_the_next_is_served(town: Town) -> None:
    write_loop(town.folder)
    await town.until_ready("loop")
    asker = await town.asker()
    endless = asyncio.create_task(asker.loop(FOR_EVER))
    await within(asker.until("loop", running=1))
    waiting = asyncio.create_task(asker.loop(7))
    unwanted = asyncio.create_task(asker.loop(8))
    await within(asker.load())
    assert (await asker.load("loop")).queued == 2
    unwanted.cancel()
    endless.cancel()
    assert await within(waiting) == [[7]]
    outcomes = await asyncio.gather(endless, unwanted, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    counts = town.counts("loop")
    assert counts["requests"] == {"ok": 1, "cancelled": 2}
    assert counts["dropped"] == {"cancelled": 1}
    await town.at_rest()


async def test_deadline_is_kept_by_what_runs_and_by_what_waits(town: Town) -> None:
    write_loop(town.folder)
    await town.until_ready("loop")
    asker = await town.asker()
    with pytest.raises(DeadlineExceeded, match="passed when the request arrived"):
        await within(asker.loop(1, budget_ms=0))
    endless = asyncio.create_task(asker.loop(FOR_EVER))
    await within(asker.until("loop", running=1))
    waiting = asyncio.create_task(asker.loop(2, budget_ms=50))
    with pytest.raises(DeadlineExceeded, match="the deadline passed before it ran"):
        await within(waiting)
    assert not endless.done()
    endless.cancel()
    await asyncio.gather(endless, return_exceptions=True)
    await town.at_rest()  # so that the next begins to run as it comes
    running = asyncio.create_task(asker.loop(FOR_EVER, budget_ms=500))
    patient = asyncio.create_task(asker.loop(3, budget_ms=60_000))
    with pytest.raises(DeadlineExceeded, match="the deadline passed while it ran"):
        await within(running)
    assert await within(patient) == [[3]]
    await town.at_rest()


async def test_timeout_that_the_repository_sets_ends_a_wait_and_not_a_run(town: Town) -> None:
    folder = town.folder / "loop"
    folder.mkdir()
    (folder / "config.pbtxt").write_text(
        "dynamic_batching { default_queue_policy { default_timeout_microseconds: 100000 } }"
    )
    os.utime(folder / "config.pbtxt", (1_000_000, 1_000_000))
    write_loop(town.folder)
    await town.until_ready("loop")
    asker = await town.asker()
    running = asyncio.create_task(asker.loop(FOR_EVER))
    await within(asker.until("loop", running=1))
    with pytest.raises(DeadlineExceeded, match="it has waited 100 ms, as long as this model's"):
        await within(asker.loop(2))
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await within(asker.loop(3)) == [[3]]
    await town.at_rest()


@pytest.mark.parametrize("town", [0.3], indirect=True)
async def test_run_that_is_too_long_for_the_node_is_stopped_without_harm(town: Town) -> None:
    write_loop(town.folder)
    await town.until_ready("loop")
    asker = await town.asker()
    with pytest.raises(RunFailed, match=r"more than the 0\.3 s that this node allows one"):
        await within(asker.loop(FOR_EVER))
    # a run that need not be stopped has the time of a machine that has other work
    hosted = town.models.find(ModelName("loop"), ANY)
    assert hosted is not None
    hosted.runner._watchdog_s = LIMIT_S
    assert await within(asker.loop(5)) == [[5]]
    await town.at_rest()


async def test_requests_of_a_lost_link_are_stopped(town: Town) -> None:
    write_loop(town.folder)
    await town.until_ready("loop")
    leaving, staying = await town.asker(), await town.asker()
    endless = [asyncio.create_task(leaving.loop(FOR_EVER)) for _ in range(3)]
    await within(staying.until("loop", running=1))
    patient = asyncio.create_task(staying.loop(4))
    leaving.link.abort("the router died")
    assert await within(patient) == [[4]]
    outcomes = await within(asyncio.gather(*endless, return_exceptions=True))
    assert {outcome.code for outcome in outcomes} == {"link_lost"}
    await town.at_rest()


async def test_model_is_replaced_under_load_and_no_request_notices(town: Town) -> None:
    write_dense(town.folder, "dense")
    await town.until_ready("dense")
    askers = [await town.asker() for _ in range(4)]
    x = np.array(rows(5), np.float32)
    old, new = (x @ WEIGHTS).tolist(), (x @ (WEIGHTS * 2)).tolist()
    is_over = asyncio.Event()

    async def ask(asker: ResponseHandler) -> list[bool]:
        """Ask until some time after the first new answer; return which were new."""
        seen: list[bool] = []
        while not is_over.is_set() or not seen[-1]:
            (given,) = await asker.outputs("dense", tensor("x", x))
            assert given in (old, new)
            seen.append(given == new)
            if seen.count(True) > 20:
                is_over.set()
        return seen

    async def replace() -> None:
        while town.counts("dense")["requests"]["ok"] < 20:
            await asyncio.sleep(0)
        write_dense(town.folder, "dense", scale=2.0)

    *all_seen, _ = await gather(*(ask(asker) for asker in askers), replace())
    for seen in all_seen:
        assert seen == sorted(seen)  # never back again
        assert not seen[0]
        assert seen[-1]
    await town.at_rest()


async def test_router_may_unload_and_load_a_model(town: Town) -> None:
    write_dense(town.folder, "dense")
    await town.until_ready("dense")
    asker = await town.asker()
    await asker.change(ControlAction.UNLOAD, "dense")
    with pytest.raises(ModelUnavailable, match="'dense' version 'any' is not ready on this node"):
        await within(asker.outputs("dense", tensor("x", rows(0))))
    with pytest.raises(ModelUnavailable, match="is not in this node's folder"):
        await asker.change(ControlAction.LOAD, "nobody")
    await asker.change(ControlAction.LOAD, "dense")
    (given,) = await within(asker.outputs("dense", tensor("x", rows(1))))
    assert given == (np.array(rows(1), np.float32) @ WEIGHTS).tolist()
    await town.at_rest()


async def test_worker_is_not_quiet_while_a_change_is_made(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dense(town.folder, "dense")
    await town.until_ready("dense")
    asker = await town.asker()
    await asker.change(ControlAction.UNLOAD, "dense")
    has_begun, may_end = threading.Event(), threading.Event()
    load = town.backend.load

    def held(source: ModelSource) -> LoadedModel:
        has_begun.set()
        assert may_end.wait(LIMIT_S)
        return load(source)

    monkeypatch.setattr(town.backend, "load", held)
    changing = asyncio.create_task(asker.change(ControlAction.LOAD, "dense"))
    assert await asyncio.to_thread(has_begun.wait, LIMIT_S)
    assert not town.service.is_quiet  # a drained worker would leave
    may_end.set()
    await within(changing)
    await town.at_rest()


NAME = ModelName("tiny")
TOKENS = 40
HELD_AT = 5
"""The decoding step before which the model waits, until the test has made its change."""


class Generated(PartsHandler):
    """One generation, with the tokens that have come of it."""

    def __init__(self, link: Link, **more: object) -> None:
        asked = {"prompt": [5, 6, 7], "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        asked |= more
        given = Tensor(
            GENERATION, Datatype.BYTES, (1,), join_elements([json.dumps(asked).encode()])
        )
        call = InferCall(NAME, ANY, (given,), (PARTS,), takes_parts=True)
        self.link = link
        self.ids: list[int] = []
        self.is_over = False
        self.error: CapameshError | None = None
        self.stream = link.ask(*encode_call(call, 60_000), self)

    def part_answered(self, part: Answer) -> None:
        self._take(part)
        self.link.release(self.stream, part)

    def answered(self, answer: Answer) -> None:
        self._take(answer)
        self.is_over = True

    def failed(self, error: CapameshError) -> None:
        self.error, self.is_over = error, True

    def _take(self, answer: Answer) -> None:
        (parts,) = decode_answer(answer.meta, answer.body, Limits()).outputs
        for piece in json.loads(bytes(split_elements(parts.data, 1)[0])):
            self.ids += piece.get("t", [])

    async def until_over(self) -> list[int]:
        await eventually(lambda: self.is_over, "the generation does not end")
        assert self.error is None
        return self.ids


class Gate:
    """Holds up the decoding steps of one model from the `HELD_AT`th on."""

    def __init__(self, hosted: HostedModel) -> None:
        decoder = hosted.prepared.loaded
        assert isinstance(decoder, LoadedDecoder)
        self._decode = decoder.slots.decode
        self._steps = 0
        self.is_open = threading.Event()
        decoder.slots.decode = self._held  # type: ignore[method-assign]

    def _held(self, tokens: Sequence[int]) -> Logits:
        self._steps += 1
        if self._steps >= HELD_AT:
            assert self.is_open.wait(30)
        return self._decode(tokens)


@pytest.fixture
async def chat(town: Town) -> Town:
    """Return a town with a language model."""
    made = town.folder.parent / "made"
    write_decoder_folder(made / "1")
    (made / "capamesh.toml").write_text("task = 'chat'\n")
    for file in made.rglob("*"):
        os.utime(file, (1_000_000, 1_000_000))
    made.rename(town.folder / NAME)
    await town.until_ready(NAME)
    return town


def cache_of(hosted: HostedModel) -> weakref.ref[Any]:
    """Return a reference to the memory of a model's slots, which ends with it."""
    return weakref.ref(hosted.prepared.loaded.slots._memory._array)  # type: ignore[attr-defined]


async def change(town: Town, how: str) -> None:
    """Change the model that generates, and wait until that is done for all who come now."""
    before = town.models.find(NAME, ANY)
    if how == "unloaded":
        await (await town.asker()).change(ControlAction.UNLOAD, NAME)
    elif how == "replaced":
        template = town.folder / NAME / "1" / "chat_template.jinja"
        new = template.with_suffix(".new")
        new.write_text(template.read_text() + "{# other #}")
        os.utime(new, (2_000_000, 2_000_000))
        new.replace(template)
    else:
        shutil.move(town.folder / NAME, town.folder.parent / "away")
    await eventually(lambda: town.models.find(NAME, ANY) is not before, "nothing has changed")


@pytest.mark.parametrize("how", ["unloaded", "replaced", "removed"])
@pytest.mark.parametrize("leaves", [False, True])
async def test_generation_outlives_its_model_and_leaves_no_memory(
    chat: Town, how: str, leaves: bool
) -> None:
    link = (await chat.asker()).link
    alone = await Generated(link).until_over()
    assert len(alone) == TOKENS
    hosted = chat.models.find(NAME, ANY)
    assert hosted is not None
    gate, cache, runner = Gate(hosted), cache_of(hosted), hosted.runner
    going = Generated(link)
    await eventually(lambda: len(going.ids) >= HELD_AT - 1, "nothing is generated")
    await within(change(chat, how))
    assert not going.is_over
    others = Generated(link)
    if how == "replaced":
        assert await others.until_over() == alone  # while the one before is held up
    else:
        await eventually(lambda: others.is_over, "nobody is told")
        assert isinstance(others.error, ModelUnavailable)
    assert not runner.scheduler.is_idle
    assert cache() is not None
    if leaves:
        link.withdraw(going.stream)
        await eventually(lambda: runner.scheduler.is_idle, "it goes on for nobody")
    gate.is_open.set()
    if not leaves:
        assert await going.until_over() == alone
    gc.disable()  # what is held in a circle may be for long
    try:
        await eventually(lambda: cache() is None, "the memory of the slots is held")
    finally:
        gc.enable()
    await chat.at_rest()


def figures_of(town: Town) -> dict[str, Any]:
    """Return the counts of the model that generates."""
    hosted = town.models.find(NAME, ANY)
    assert hosted is not None
    scheduler = hosted.runner.scheduler
    assert isinstance(scheduler, GenerationScheduler)
    return {**scheduler.figures()}


async def test_tokens_are_guessed_where_the_manifest_says_so(chat: Town) -> None:
    link = (await chat.asker()).link
    before = chat.models.find(NAME, ANY)
    await Generated(link).until_over()
    assert figures_of(chat)["drafted_tokens"] == 0
    new = chat.folder.parent / "new.toml"
    new.write_text("task = 'chat'\n[generation]\nlookup_tokens = 8\n")
    os.utime(new, (2_000_000, 2_000_000))
    new.replace(chat.folder / NAME / "capamesh.toml")
    await eventually(lambda: chat.models.find(NAME, ANY) is not before, "nothing has changed")
    few = {"5": 50.0, "6": 50.0, "7": 50.0}  # of these tokens an answer must repeat itself
    alone = await Generated(link, logit_bias=few).until_over()
    assert len(alone) == TOKENS
    figures = figures_of(chat)
    assert figures["drafted_tokens"] >= figures["accepted_tokens"] > 0
    together = [Generated(link, logit_bias=few) for _ in range(6)]
    for each in together:
        assert await each.until_over() == alone
    await chat.at_rest()


async def test_model_that_generates_is_in_use_until_its_answer_ends(chat: Town) -> None:
    link = (await chat.asker()).link
    hosted = chat.models.find(NAME, ANY)
    assert hosted is not None
    gate, runner = Gate(hosted), hosted.runner
    going = Generated(link)
    await eventually(lambda: len(going.ids) >= HELD_AT - 1, "nothing is generated")
    runner.last_used_s -= 3600.0
    now_s = time.monotonic()
    assert _may_leave_s(hosted, now_s) > now_s
    gate.is_open.set()
    await going.until_over()
    await eventually(lambda: now_s <= runner.last_used_s, "its end was no use")
    await chat.at_rest()
