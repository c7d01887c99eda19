"""Requests of routers at a worker: each has its own answer, whatever the model, the company, the deadline and the end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from awaited_calls import request
from engine_link import control, load_of, until
from engine_models import FOREVER, looping, model_of
from link_sockets import within
from patience import LIMIT_S
from tiny_llama import write_decoder_folder

from capamesh.node.generation.slots import Logits
from capamesh.node.models.eviction import _may_leave_s
from capamesh.node.models.registry import HostedModel
from capamesh.node.repository import ModelSource
from capamesh.node.runtime.api import LoadedModel
from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder
from capamesh.node.scheduling.generation_scheduler import GenerationScheduler
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
    InferCall,
    LoadReport,
    decode_answer,
    encode_call,
)
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import PartsHandler
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tasks import GENERATION, PARTS
from capamesh.protocol.tensors import Datatype, Limits, Tensor, join_elements, split_elements

if TYPE_CHECKING:
    from conftest import Town

ANY = ModelVersion("")
AT_ONCE = 64
WEIGHTS = np.arange(-6, 6, dtype=np.float32).reshape(4, 3)
"""Whole numbers, so that sums are exact in whatever order a kernel adds."""


def dense(scale: float = 1.0, width: int | str = 4) -> onnx.ModelProto:
    """Return `y = x W`. With an open width its runs are of no known length, and go to threads."""
    return model_of(
        f"dense (float[N, {width}] x) => (float[N, 3] y) {{ y = MatMul(x, w) }}",
        w=WEIGHTS * np.float32(scale),
    )


OPEN = "[[warm_up]]\nshapes = {x = [1, 4]}\n"
"""An open width cannot be guessed."""
KINDS = {
    # a batch would mix requests: it subtracts the mean of the request's rows
    "centred": """centred (float[N, 4] x) => (float[N, 4] y) <int64[1] axes = {0}>
        { mean = ReduceMean(x, axes) y = Sub(x, mean) }""",
    # the sum of what a sequence has sent
    "total": """total (float[N, 4] x, float[N, 4] h) => (float[N, 4] y, float[N, 4] h_next)
        { h_next = Add(x, h) y = Identity(h_next) }""",
    # `sum` of numbers of any length, by a mask that the node makes; `y` has the request's length
    "padded": """padded (int64[N, L] ids, int64[N, L] mask) => (int64[N, L] y, int64[N, 1] sum)
        <int64[1] axes = {1}> { y = Mul(ids, mask) sum = ReduceSum(y, axes) }""",
    "text": "text (string[N, 1] x) => (string[N, 1] y) { y = Identity(x) }",
}
MANIFESTS = {
    "total": '[[sequence.state]]\ninput = "h"\noutput = "h_next"\n',
    # a padding that would be seen in the sum
    "padded": '[[batching.ragged]]\ninput = "ids"\npad = 1000000\nmask = "mask"\noutputs = ["y"]\n',
}
CHAIN = (
    '[[step]]\nmodel = "centred"\ninputs = {x = "x"}\noutputs = {y = "middle"}\n'
    '[[step]]\nmodel = "dense"\ninputs = {x = "middle"}\noutputs = {y = "y"}\n'
)
IS_BATCHING = {
    "dense": True,
    "centred": False,
    "total": True,
    "padded": True,
    "text": True,
    "chain": False,
}


async def infer(
    link: Link,
    model: str,
    *,
    budget_ms: int | None = None,
    sequence: SequenceMark | None = None,
    **inputs: Any,
) -> list[Any]:
    """Return a model's outputs as lists."""
    given = tuple(Tensor.from_numpy(name, np.array(value)) for name, value in inputs.items())
    call = InferCall(ModelName(model), ANY, given, sequence=sequence)
    answer = await request(link, *encode_call(call, budget_ms))
    outputs = decode_answer(answer.meta, answer.body, Limits()).outputs
    return [output.to_numpy().tolist() for output in outputs]


def rows(number: int) -> np.ndarray:
    """Return the rows of request `number`, one to three, unlike those of any other."""
    made = [[number, row, number * 2 + row, 1] for row in range(1 + number % 3)]
    return np.array(made, np.float32)


async def gather(*requests: Any) -> list[Any]:
    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*requests)


@pytest.mark.parametrize("width", [4, "W"], ids=["in the loop", "in threads"])
async def test_many_requests_at_once_each_get_their_own_answer(
    town: Town, width: int | str
) -> None:
    town.put("dense", dense(width=width), "" if width == 4 else OPEN)
    await town.until_ready("dense")
    link, hosted = await town.link(), town.hosted("dense")

    async def ask(number: int) -> Any:
        while True:
            with suppress(Overloaded):  # which a busy machine may bring about
                return (await infer(link, "dense", x=rows(number)))[0]

    for _ in range(5):
        for number, given in enumerate(await gather(*map(ask, range(AT_ONCE)))):
            assert given == (rows(number) @ WEIGHTS).tolist()
            (direct,) = hosted.prepared.loaded.run([Tensor.from_numpy("x", rows(number))])
            assert given == direct.to_numpy().tolist()
    counts = town.counts("dense")
    assert counts["requests"]["ok"] == 5 * AT_ONCE
    assert counts["requests"].keys() <= {"ok", Overloaded.code}
    assert counts["rows"] == 5 * sum(len(rows(number)) for number in range(AT_ONCE))
    if width == 4:  # they did share runs; whether those of threads do is luck
        assert counts["batches"] < 5 * AT_ONCE
    assert hosted.prepared.is_predictable is (width == 4)
    assert hosted.runner._threads or width == 4


async def test_models_of_all_kinds_are_served_side_by_side_over_two_links(town: Town) -> None:
    town.put("dense", dense())
    for name, graph in KINDS.items():
        town.put(name, model_of(graph), MANIFESTS.get(name, ""))
    (town.folder / "chain").mkdir()
    (town.folder / "chain" / "capamesh.toml").write_text(CHAIN)
    await town.until_ready(*IS_BATCHING)
    assert {one.source.name: one.prepared.plan.is_batching for one in town.models} == IS_BATCHING
    links = [await town.link(), await town.link()]

    async def ask(number: int) -> None:
        link, x = links[number % 2], rows(number)
        assert await infer(link, "dense", x=x) == [(x @ WEIGHTS).tolist()]
        assert await infer(link, "centred", x=x) == [(x - x.mean(0)).tolist()]
        (given,) = await infer(link, "chain", x=x)
        np.testing.assert_allclose(given, (x - x.mean(0)) @ WEIGHTS, atol=1e-4)
        ids = [list(range(number, number + 1 + number % 7))]
        assert await infer(link, "padded", ids=ids) == [ids, [[sum(ids[0])]]]
        texts = np.array([[f"text {number}"], ["\u00e4" * (number % 5)]], object)
        (given,) = await infer(link, "text", x=texts)
        assert given == [[one.encode()] for (one,) in texts.tolist()]
        so_far = np.zeros(4, np.float32)
        for step in range(4):
            x = np.array([[number, step, 1, 0]], np.float32)
            so_far = so_far + x[0]
            mark = SequenceMark(number, is_start=step == 0, is_end=step == 3)
            assert await infer(link, "total", x=x, sequence=mark) == [[so_far.tolist()]]

    await gather(*map(ask, range(32)))
    for name, batching in IS_BATCHING.items():
        counts = town.counts(name)
        assert list(counts["requests"]) == ["ok"]
        assert (counts["batches"] < counts["requests"]["ok"]) is batching


async def test_bad_requests_among_good_ones_harm_nobody_else(town: Town) -> None:
    pick = model_of(
        "pick (int64[N, 1] i) => (float[N, 1] y) { y = Gather(table, i) }",
        table=np.arange(100, dtype=np.float32) / 2,
    )
    town.put("pick", pick)
    await town.until_ready("pick")
    link = await town.link()

    async def ask(number: int) -> str | float:
        try:
            ((given,),) = await infer(link, "pick", i=[[number if number % 5 else 1000]])
        except CapameshError as error:
            return error.code
        return float(given[0])

    for turn in range(5):
        numbers = range(turn, turn + 20)
        expected = [number / 2 if number % 5 else "invalid_request" for number in numbers]
        assert await gather(*map(ask, numbers)) == expected
    assert town.counts("pick")["requests"] == {"ok": 80, "invalid_request": 20}
    assert town.hosted("pick").runner.scheduler.plan.is_batching
    with pytest.raises(InvalidRequest):
        await within(infer(link, "pick", x=[[np.float32(1)]]))


# deadlines and ends


@pytest.fixture
async def loops(town: Town) -> Town:
    """Return a town with a model that takes as long as it is asked to."""
    town.put("loop", looping())
    await town.until_ready("loop")
    return town


async def loop(link: Link, turns: int, budget_ms: int | None = None) -> int:
    ((done,),) = await infer(link, "loop", budget_ms=budget_ms, turns=[turns])
    return int(done)


async def running(link: Link, count: int = 1) -> list[asyncio.Task[int]]:
    """Begin runs without an end, of which one runs."""

    def is_running(load: LoadReport) -> bool:
        return load.in_flight - load.queued == 1

    tasks = [asyncio.create_task(loop(link, FOREVER)) for _ in range(count)]
    await until(lambda: load_of(link, "loop"), is_running)
    return tasks


async def cancel(*tasks: asyncio.Task[int]) -> None:
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in ended} == {asyncio.CancelledError}


async def test_cancelled_request_s_run_is_stopped_and_the_next_is_served(loops: Town) -> None:
    link = await loops.link()
    (endless,) = await running(link)
    waiting, unwanted = (asyncio.create_task(loop(link, turns)) for turns in (7, 8))
    await until(lambda: load_of(link, "loop"), lambda load: load.queued == 2)
    await cancel(unwanted, endless)
    assert await within(waiting) == 7
    counts = loops.counts("loop")
    assert counts["requests"] == {"ok": 1, "cancelled": 2}
    assert counts["dropped"] == {"cancelled": 1}


async def test_deadline_is_kept_by_what_runs_and_by_what_waits(loops: Town) -> None:
    link = await loops.link()
    with pytest.raises(DeadlineExceeded, match="passed when the request arrived"):
        await within(loop(link, 1, budget_ms=0))
    (endless,) = await running(link)
    with pytest.raises(DeadlineExceeded, match="the deadline passed before it ran"):
        await within(loop(link, 2, budget_ms=50))
    assert not endless.done()
    await cancel(endless)
    await loops.at_rest()  # so that the next begins to run as it comes
    late = asyncio.create_task(loop(link, FOREVER, budget_ms=500))
    patient = asyncio.create_task(loop(link, 3, budget_ms=60_000))
    with pytest.raises(DeadlineExceeded, match="the deadline passed while it ran"):
        await within(late)
    assert await within(patient) == 3


async def test_timeout_that_the_repository_sets_ends_a_wait_and_not_a_run(town: Town) -> None:
    config = town.folder / "loop" / "config.pbtxt"
    config.parent.mkdir()
    config.write_text(
        "dynamic_batching { default_queue_policy { default_timeout_microseconds: 100000 } }"
    )
    os.utime(config, (1_000_000, 1_000_000))
    town.put("loop", looping())
    await town.until_ready("loop")
    link = await town.link()
    (endless,) = await running(link)
    with pytest.raises(DeadlineExceeded, match="it has waited 100 ms, as long as this model's"):
        await within(loop(link, 2))
    assert not endless.done()
    await cancel(endless)
    assert await within(loop(link, 3)) == 3


@pytest.mark.parametrize("town", [0.3], indirect=True)
async def test_run_that_is_too_long_for_the_node_is_stopped_without_harm(loops: Town) -> None:
    link = await loops.link()
    with pytest.raises(RunFailed, match=r"more than the 0\.3 s that this node allows one"):
        await within(loop(link, FOREVER))
    # a run that need not be stopped has the time of a machine that has other work
    loops.hosted("loop").runner._watchdog_s = LIMIT_S
    assert await within(loop(link, 5)) == 5


async def test_requests_of_a_lost_link_are_stopped(loops: Town) -> None:
    leaving, staying = await loops.link(), await loops.link()
    endless = await running(leaving, 3)
    patient = asyncio.create_task(loop(staying, 4))
    leaving.abort("the router died")
    assert await within(patient) == 4
    ended: list[Any] = await within(asyncio.gather(*endless, return_exceptions=True))
    assert {error.code for error in ended} == {"link_lost"}


# changes


async def test_model_is_replaced_under_load_and_no_request_notices(town: Town) -> None:
    town.put("dense", dense())
    await town.until_ready("dense")
    x = rows(5)
    old, new = (x @ WEIGHTS).tolist(), (x @ (WEIGHTS * 2)).tolist()
    is_over = asyncio.Event()

    async def ask(link: Link) -> list[bool]:
        """Ask until some time after the first new answer; return which were new."""
        seen: list[bool] = []
        while not is_over.is_set() or not seen[-1]:
            (given,) = await infer(link, "dense", x=x)
            assert given in (old, new)
            seen.append(given == new)
            if seen.count(True) > 20:
                is_over.set()
        return seen

    async def replace() -> None:
        while town.counts("dense")["requests"].get("ok", 0) < 20:
            await asyncio.sleep(0)
        town.put("dense", dense(scale=2.0))

    links = [await town.link() for _ in range(4)]
    *all_seen, _ = await gather(*map(ask, links), replace())
    for seen in all_seen:
        assert seen == sorted(seen)  # never back again
        assert (seen[0], seen[-1]) == (False, True)


async def test_router_may_unload_and_load_a_model_and_the_worker_is_not_quiet_meanwhile(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.put("dense", dense())
    await town.until_ready("dense")
    link = await town.link()
    await within(control(link, ControlAction.UNLOAD, "dense"))
    with pytest.raises(ModelUnavailable, match="'dense' version 'any' is not ready on this node"):
        await within(infer(link, "dense", x=rows(0)))
    with pytest.raises(ModelUnavailable, match="is not in this node's folder"):
        await within(control(link, ControlAction.LOAD, "nobody"))
    has_begun, may_end = threading.Event(), threading.Event()
    load = town.backend.load

    def held(source: ModelSource) -> LoadedModel:
        has_begun.set()
        assert may_end.wait(LIMIT_S)
        return load(source)

    monkeypatch.setattr(town.backend, "load", held)
    changing = asyncio.create_task(control(link, ControlAction.LOAD, "dense"))
    assert await asyncio.to_thread(has_begun.wait, LIMIT_S)
    assert not town.service.is_quiet  # a drained worker would leave
    may_end.set()
    await within(changing)
    assert await within(infer(link, "dense", x=rows(1))) == [(rows(1) @ WEIGHTS).tolist()]


# generation

TOKENS = 40
HELD_AT = 5
"""The decoding step before which the model waits, until the test has made its change."""


class Generated(PartsHandler):
    """One generation, with the tokens that have come of it."""

    def __init__(self, link: Link, **more: object) -> None:
        asked = {"prompt": [5, 6, 7], "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        text = join_elements([json.dumps(asked | more).encode()])
        given = Tensor(GENERATION, Datatype.BYTES, (1,), text)
        call = InferCall(ModelName("tiny"), ANY, (given,), (PARTS,), takes_parts=True)
        self.link = link
        self.ids: list[int] = []
        self.is_over = False
        self.error: CapameshError | None = None
        self._news = asyncio.Event()
        self.stream = link.ask(*encode_call(call, 60_000), self)

    def part_answered(self, part: Answer) -> None:
        self._take(part)
        self.link.release(self.stream, part)

    def answered(self, answer: Answer) -> None:
        self.is_over = True
        self._take(answer)

    def failed(self, error: CapameshError) -> None:
        self.error, self.is_over = error, True
        self._news.set()

    def _take(self, answer: Answer) -> None:
        self._news.set()
        (parts,) = decode_answer(answer.meta, answer.body, Limits()).outputs
        for piece in json.loads(bytes(split_elements(parts.data, 1)[0])):
            self.ids += piece.get("t", [])

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    async def until_over(self) -> list[int]:
        await self.until(lambda: self.is_over)
        assert self.error is None
        return self.ids

    async def until_held(self) -> None:
        await self.until(lambda: len(self.ids) >= HELD_AT - 1)


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
    made.rename(town.folder / "tiny")
    await town.until_ready("tiny")
    return town


def until_changed(town: Town) -> Coroutine[Any, Any, None]:
    """Return what waits until the model is another than now."""
    before = town.hosted("tiny")
    return town.until(lambda: town.models.find(ModelName("tiny"), ANY) is not before)


async def rewrite(town: Town, file: str, text: str) -> None:
    """Replace a file of the model, and wait until the model with it is ready."""
    new, changed = town.folder.parent / "new", until_changed(town)
    new.write_text(text)
    os.utime(new, (2_000_000, 2_000_000))
    new.replace(town.folder / "tiny" / file)
    await changed


async def change(town: Town, how: str) -> None:
    """Change the model that generates, and wait until that is done for all who come now."""
    changed, template = until_changed(town), "1/chat_template.jinja"
    if how == "replaced":
        text = (town.folder / "tiny" / template).read_text()
        await rewrite(town, template, text + "{# other #}")
    elif how == "unloaded":
        await control(await town.link(), ControlAction.UNLOAD, "tiny")
    else:
        shutil.move(town.folder / "tiny", town.folder.parent / "away")
    await changed


@pytest.mark.parametrize("how", ["unloaded", "replaced", "removed"])
@pytest.mark.parametrize("leaves", [False, True])
async def test_generation_outlives_its_model_and_leaves_no_memory(
    chat: Town, how: str, leaves: bool
) -> None:
    link = await chat.link()
    alone = await Generated(link).until_over()
    assert len(alone) == TOKENS
    hosted = chat.hosted("tiny")
    gate, runner, is_freed = Gate(hosted), hosted.runner, asyncio.Event()
    free = partial(asyncio.get_running_loop().call_soon_threadsafe, is_freed.set)
    cache: Any = weakref.ref(hosted.prepared.loaded.slots._memory._array, lambda _: free())  # type: ignore[attr-defined]
    going = Generated(link)
    await going.until_held()
    await within(change(chat, how))
    assert not going.is_over
    others = Generated(link)
    if how == "replaced":
        assert await others.until_over() == alone  # while the one before is held up
    else:
        await others.until(lambda: others.is_over)
        assert isinstance(others.error, ModelUnavailable)
    assert not runner.scheduler.is_idle
    assert cache() is not None
    gc.disable()  # what is held in a circle may be for long
    try:
        if leaves:
            link.withdraw(going.stream)
            await within(runner.wait_idle())
        gate.is_open.set()
        if not leaves:
            assert await going.until_over() == alone
        await within(is_freed.wait())
    finally:
        gc.enable()


def figures_of(town: Town) -> dict[str, Any]:
    """Return the counts of the model that generates."""
    scheduler = town.hosted("tiny").runner.scheduler
    assert isinstance(scheduler, GenerationScheduler)
    return {**scheduler.figures()}


async def test_tokens_are_guessed_where_the_manifest_says_so(chat: Town) -> None:
    link = await chat.link()
    await Generated(link).until_over()
    assert figures_of(chat)["drafted_tokens"] == 0
    await rewrite(chat, "capamesh.toml", "task = 'chat'\n[generation]\nlookup_tokens = 8\n")
    few = {"5": 50.0, "6": 50.0, "7": 50.0}  # of these tokens an answer must repeat itself
    alone = await Generated(link, logit_bias=few).until_over()
    assert len(alone) == TOKENS
    figures = figures_of(chat)
    assert figures["drafted_tokens"] >= figures["accepted_tokens"] > 0
    for each in [Generated(link, logit_bias=few) for _ in range(6)]:
        assert await each.until_over() == alone


async def test_model_that_generates_is_in_use_until_its_answer_ends(chat: Town) -> None:
    hosted = chat.hosted("tiny")
    gate, runner = Gate(hosted), hosted.runner
    going = Generated(await chat.link())
    await going.until_held()
    runner.last_used_s -= 3600.0
    now_s = time.monotonic()
    assert _may_leave_s(hosted, now_s) > now_s
    gate.is_open.set()
    await going.until_over()
    async with asyncio.timeout(LIMIT_S):
        while runner.last_used_s < now_s:  # its end is a use, too
            await asyncio.sleep(0)
