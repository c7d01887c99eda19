from __future__ import annotations

import io
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fleet_fakes import SPEC
from model_files import f32, onnx_model, write_onnx
from onnx import helper
from patience import LIMIT_S
from text_models import write_encoder
from tiny_llama import CONTEXT, write_decoder_folder
from typing_extensions import override
from worker_fakes import FakeClock, FakeModel, FakeSwitch, source_of

from capamesh.node.models import preparation
from capamesh.node.models.preparation import LoadResult, Preparation
from capamesh.node.profiling.measuring import (
    BUDGET_S,
    MAX_BATCH_ROWS,
    POINT_RUNS,
    POINT_S,
    PROFILE_DIMS,
)
from capamesh.node.profiling.profile_cache import Measured, ProfileCache
from capamesh.node.repository import Manifest, ModelSource, scan
from capamesh.node.repository.rules import (
    BatchingRules,
    RaggedInput,
    Rules,
    WarmUp,
)
from capamesh.node.runtime.api import LoadedModel
from capamesh.node.runtime.onnxruntime.arena import ArenaWatch
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder
from capamesh.node.scheduling import BatchPlan, PendingRequest
from capamesh.node.scheduling.run_need import RunNeed
from capamesh.protocol.errors import InvalidRequest, ModelInvalid, RunFailed
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

P = onnx.TensorProto
value = helper.make_tensor_value_info
node = helper.make_node
CIRCUMSTANCES = {"device": "cpu", "threads": "1"}

Build = tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto], list[onnx.NodeProto]]


def constant(name: str, *values: float, datatype: int = P.INT64) -> onnx.NodeProto:
    tensor = helper.make_tensor(name, datatype, [len(values)], values)
    return node("Constant", [], [name], value=tensor)


def x_to_y(*nodes: onnx.NodeProto) -> Build:
    """`y` from `x`, both f32[N, 2]."""
    return [f32("x", "N", 2)], [f32("y", "N", 2)], list(nodes)


DOUBLE = x_to_y(node("Add", ["x", "x"], ["y"]))
AXIS_0 = constant("axes", 0)
ROWS_INFLUENCE_EACH_OTHER = {
    "softmax over the batch": [node("Softmax", ["x"], ["y"], axis=0)],
    "minus the batch's mean": [
        AXIS_0,
        node("ReduceMean", ["x", "axes"], ["mean"]),
        node("Sub", ["x", "mean"], ["y"]),
    ],
    "sum of the rows before": [
        constant("axis", 0),
        node("Squeeze", ["axis"], ["scalar"]),
        node("CumSum", ["x", "scalar"], ["y"]),
    ],
    "rows in reverse": [
        AXIS_0,
        *(constant(name, at) for name, at in (("start", -1), ("end", -(2**31)), ("step", -1))),
        node("Slice", ["x", "start", "end", "axes", "step"], ["y"]),
    ],
}
CELL: Build = (
    [f32("x", "N", 2), f32("h", "N", 2)],
    [f32("y", "N", 2), f32("h_next", "N", 2)],
    [node("Add", ["x", "h"], ["h_next"]), node("Identity", ["h_next"], ["y"])],
)
ONLY_SEVEN: Build = (
    [f32("x", "N", "L")],
    [f32("y", "N", 7)],
    [constant("shape", 0, 7), node("Reshape", ["x", "shape"], ["y"])],
)
"""Runs with rows of 7 alone, though it does not say so."""
PADDED: Build = (
    [value("ids", P.INT64, ["N", "L"]), value("mask", P.INT64, ["N", "L"])],
    [value("y", P.INT64, ["N", "L"]), value("sum", P.INT64, ["N", 1])],
    [
        node("Mul", ["ids", "mask"], ["y"]),
        constant("axes", 1),
        node("ReduceSum", ["y", "axes"], ["sum"]),
    ],
)


class Shop:
    """A folder of real models, prepared with a clock that stands still."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backend = OnnxBackend("cpu")
        self.loaded: list[LoadedModel] = []

    def put(self, build: Build, **files: str | bytes) -> ModelSource:
        """Write a model; `files` by name, with `_` for the dot."""
        inputs, outputs, nodes = build
        write_onnx(self.folder / "m/1/model.onnx", onnx_model(nodes, inputs, outputs))
        for name, content in files.items():
            raw = content.encode() if isinstance(content, str) else content
            (self.folder / "m" / name.replace("_", ".")).write_bytes(raw)
        found = scan(self.folder)
        assert found.refused == ()
        (source,) = found.models
        return source

    def prepare(self, build: Build, toml: str = "", **files: str | bytes) -> LoadResult:
        if toml:
            files["capamesh_toml"] = toml
        return self.prepared(self.put(build, **files))

    def prepared(self, source: ModelSource) -> LoadResult:
        preparation = Preparation(
            self.backend, ProfileCache(None), circumstances=CIRCUMSTANCES, clock=FakeClock()
        )
        return preparation.prepare(source, partial(self._load, source))

    def _load(self, source: ModelSource) -> LoadedModel:
        self.loaded.append(self.backend.load(source))
        return self.loaded[-1]

    def refusal(self, build: Build, toml: str = "", **files: str | bytes) -> str:
        """Return why a model cannot be served, after which it must have been let go."""
        with pytest.raises(ModelInvalid) as caught:
            self.prepare(build, toml, **files)
        (loaded,) = self.loaded
        assert loaded._live is None
        return caught.value.message


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def together(prepared: LoadResult, *requests: Sequence[Tensor]) -> list[list[Any]]:
    """Run requests as one batch, as the engine would; return each one's outputs as lists."""
    plan = prepared.plan
    requests = [
        PendingRequest(plan.completed(tuple(inputs)), (), lambda *_: None, arrived_s=0.0)
        for inputs in requests
    ]
    for request in requests:
        prepared.loaded.validate(request.inputs)
        plan.prepare(request)
    assert len({request.key for request in requests}) == 1
    joined = plan.join(requests)
    shares = plan.split(requests, prepared.loaded.run(joined), joined)
    return [[output.to_numpy().tolist() for output in share] for share in shares]


def tensor(name: str, values: Any, dtype: Any = np.float32) -> Tensor:
    return Tensor.from_numpy(name, np.array(values, dtype))


# what may share a run


def test_model_whose_rows_are_their_own_is_batched(shop: Shop) -> None:
    prepared = shop.prepare(DOUBLE)
    plan = prepared.plan
    assert (plan.is_batching, plan.max_rows, plan.shared) == (True, 0, frozenset())
    assert plan.batch_rows == MAX_BATCH_ROWS  # by this clock, more rows take no longer
    assert (prepared.notes, prepared.measured.is_batching) == ((), True)
    asked = [tensor("x", [[1, 2]])], [tensor("x", [[3, 4], [5, 6]])]
    assert together(prepared, *asked) == [[[[2, 4]]], [[[6, 8], [10, 12]]]]


@pytest.mark.parametrize(
    "nodes", ROWS_INFLUENCE_EACH_OTHER.values(), ids=ROWS_INFLUENCE_EACH_OTHER.keys()
)
def test_model_whose_rows_mix_runs_requests_alone(shop: Shop, nodes: list[onnx.NodeProto]) -> None:
    prepared = shop.prepare(x_to_y(*nodes))
    note = "output 'y' of a request differs when it runs in a batch: requests run alone"
    assert prepared.notes == (note,)
    assert (prepared.plan.is_batching, prepared.plan.batch_rows) == (False, 1)
    assert [point.rows for point in prepared.measured.profile.points] == [1]


X = f32("x", "N", 2)
SUM_OF_ROWS = [AXIS_0, node("ReduceSum", ["x", "axes"], ["y"])]
FLAT_SUM = [AXIS_0, node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
DIFFERS = "output 'y' of a request differs when it runs in a batch"


@pytest.mark.parametrize(
    ("inputs", "nodes", "shape", "why"),
    [
        ([X, f32("z", 1, 2)], [node("Add", ["x", "z"], ["y"])], None, ""),
        ([], [constant("y", 1, 2, datatype=P.FLOAT)], None, ""),
        ([X], FLAT_SUM, [2], DIFFERS),  # as many as the rows, by chance
        ([X], SUM_OF_ROWS, [1, 2], "a batch of 2 does not run"),
    ],
    ids=["one of two fixed", "no input", "no batch axis", "fixed"],
)
def test_model_whose_tensors_have_no_axis_of_rows_runs_requests_alone(
    shop: Shop, inputs: Any, nodes: list[onnx.NodeProto], shape: list[int] | None, why: str
) -> None:
    prepared = shop.prepare((inputs, [value("y", P.FLOAT, shape)], nodes))
    assert (prepared.plan.is_batching, prepared.plan.batch_rows) == (False, 1)
    assert prepared.plan.shared == frozenset()
    assert prepared.measured.profile is not None
    assert [note.startswith(why) for note in prepared.notes] == [True] * bool(why)
    assert all(note.endswith("requests run alone") for note in prepared.notes)


def test_scalar_is_shared_by_a_batch(shop: Shop) -> None:
    inputs = [f32("x", "N", 2), f32("scale")]
    prepared = shop.prepare((inputs, [f32("y", "N", 2)], [node("Mul", ["x", "scale"], ["y"])]))
    assert prepared.plan.is_batching
    assert prepared.plan.shared == {"scale"}
    asked = [[tensor("x", row), tensor("scale", 3)] for row in ([[1, 2]], [[3, 4]])]
    assert together(prepared, *asked) == [[[[3, 6]]], [[[9, 12]]]]


def test_operator_s_limit_of_rows_is_kept(shop: Shop) -> None:
    prepared = shop.prepare(DOUBLE, "[batching]\nmax_rows = 6")
    assert (prepared.plan.batch_rows, prepared.plan.max_rows) == (6, 6)
    assert [point.rows for point in prepared.measured.profile.points] == [1, 2, 4, 6]


def test_model_without_a_measurement_is_batched_only_if_told(tmp_path: Path) -> None:
    prepared = Shop(tmp_path / "a").prepare(ONLY_SEVEN)
    assert prepared.measured.profile is None
    assert (prepared.plan.is_batching, prepared.is_predictable) == (False, False)
    (note,) = prepared.notes
    assert note.startswith("it was not measured, because it does not run on generated inputs: ")
    assert note.endswith("; batching stays off (batching.enabled = true turns it on)")
    reported = Shop(tmp_path / "b").prepare(ONLY_SEVEN, "[batching]\nenabled = true")
    assert (reported.plan.is_batching, reported.plan.batch_rows) == (True, 1)
    x = tensor("x", [[1, 2, 3, 4, 5, 6, 7]])
    assert together(reported, [x], [x])[1] == [[[1, 2, 3, 4, 5, 6, 7]]]
    (note,) = reported.notes
    assert "batching stays off" not in note


# lengths that differ


RAGGED = """
[[batching.ragged]]
input = "ids"
buckets = [4]
mask = "mask"
outputs = ["y"]
"""


def test_requests_of_different_lengths_are_padded_masked_and_cut_back(shop: Shop) -> None:
    prepared = shop.prepare(PADDED, RAGGED)
    assert prepared.plan.is_batching
    assert prepared.plan.ragged == (RaggedInput("ids", buckets=(4,), mask="mask", outputs=("y",)),)
    short, long = tensor("ids", [[1, 2]], np.int64), tensor("ids", [[3, 4, 5]], np.int64)
    assert together(prepared, [short], [long]) == [[[[1, 2]], [[3]]], [[[3, 4, 5]], [[12]]]]


LOOP = '[loop]\nfeedback = {h = "h_next"}\nmax_steps = 3\n'


# warm-up


@pytest.mark.parametrize("width", [7, 3])
def test_warm_up_file_is_run(shop: Shop, width: int) -> None:
    stream = io.BytesIO()
    np.save(stream, np.ones((1, width), np.float32))
    files = '[[warm_up]]\nfiles = {x = "in.npy"}\n', stream.getvalue()
    if width == 7:
        shop.prepare(ONLY_SEVEN, files[0], in_npy=files[1])
    else:
        refusal = shop.refusal(ONLY_SEVEN, files[0], in_npy=files[1])
        assert refusal.startswith("warm-up 1 does not run: ")


def test_warm_up_s_shapes_are_what_an_open_axis_is_measured_with(shop: Shop) -> None:
    prepared = shop.prepare(ONLY_SEVEN, "[[warm_up]]\nshapes = {x = [1, 7]}\n")
    assert prepared.measured.profile is not None
    assert prepared.plan.is_batching
    assert prepared.plan.inputs[0].shape == (-1, -1)
    assert not prepared.is_predictable


# what does not fit the model


NOBODY = "input 'nobody' is not one of the model's: "
STATE = '[[sequence.state]]\ninput = "h"\noutput = "h_next"\n'
TO_FP64: Build = (
    [f32("h", "N", 2)],
    [value("h_next", P.DOUBLE, ["N", 2])],
    [node("Cast", ["h"], ["h_next"], to=P.DOUBLE)],
)
FIXED: Build = ([f32("x", 1, 2)], [f32("y", 1, 2)], DOUBLE[2])
NO_INPUT: Build = ([], [f32("y", 2)], [constant("y", 1, 2, datatype=P.FLOAT)])
MIXED = x_to_y(*ROWS_INFLUENCE_EACH_OTHER["softmax over the batch"])
BATCHED = "[batching]\nenabled = true"
ASKED = "batching is asked for, but "
TWICE = "[[warm_up]]\n[[warm_up]]\nshapes = "
WINDOW = "[window]\nsamples = 2\ninput = "


@pytest.mark.parametrize(
    ("build", "toml", "why"),
    [
        (FIXED, BATCHED, ASKED + "input 'x' of shape [1, 2] has a fixed first axis: set batching"),
        (
            NO_INPUT,
            BATCHED,
            ASKED + "no input has an open first axis: set batching.enabled = false",
        ),
        (MIXED, BATCHED, ASKED + DIFFERS + ": requests run alone: set batching.enabled = false"),
        (PADDED, RAGGED.replace('"ids"', '"nobody"'), f"batching.ragged: {NOBODY}ids, mask"),
        (PADDED, RAGGED + "axis = 2", "batching.ragged: axis 2 of input 'ids' [-1, -1]"),
        (PADDED, RAGGED + "pad = 0.5", "batching.ragged: pad 0.5 is no INT64, as input 'ids' is"),
        (DOUBLE, WINDOW + '"nobody"', f"window: {NOBODY}x"),
        (DOUBLE, WINDOW + '"x"\ncontext = 1', "window: input 'x' has shape"),
        (CELL, STATE.replace('"h"', '"nobody"'), f"sequence.state: {NOBODY}x, h"),
        (CELL, STATE + "shape = [1, 3]", "sequence.state: the shape [1, 3] of 'h' does not fit"),
        (TO_FP64, STATE, "sequence.state: input 'h' is FP32 and output 'h_next' FP64"),
        (CELL, LOOP.replace("{h =", "{nobody ="), f"loop.feedback: {NOBODY}x, h"),
        (CELL, LOOP + 'stop = "x"', "loop.stop: output 'x' is not one of the model's: y, h_next"),
        (DOUBLE, TWICE + "{nobody = [1, 2]}", "warm-up 2 does not run: the model has no input"),
        (DOUBLE, TWICE + "{x = [1, 3]}", "warm-up 2 does not run: tensor 'x' has shape [1, 3]"),
        (DOUBLE, 'task = "text-embedding"', "text.ids: input 'input_ids'"),
    ],
)
def test_rules_that_do_not_fit_the_model_are_refused(
    shop: Shop, build: Build, toml: str, why: str
) -> None:
    assert shop.refusal(build, toml).startswith(why)


def test_declaration_that_contradicts_the_model_is_refused(shop: Shop) -> None:
    pbtxt = """
        backend: "onnxruntime"
        max_batch_size: 8
        input [{name: "x" data_type: TYPE_FP32 dims: [3]}]
        output [{name: "y" data_type: TYPE_FP32 dims: [2]}]
    """
    assert shop.refusal(DOUBLE, config_pbtxt=pbtxt) == (
        "input 'x' is declared as [-1, 3], the batch axis first; the model has [-1, 2]"
    )


# tasks


def text_model(shop: Shop) -> LoadResult:
    """Load the encoder of texts as a node does."""
    write_encoder(shop.folder)
    (source,) = scan(shop.folder).models
    return shop.prepared(source)


def test_texts_of_several_requests_share_a_run_and_become_a_vector_each(shop: Shop) -> None:
    prepared = text_model(shop)
    assert prepared.plan.is_batching
    *asked, alone = (
        prepared.task.request((tensor("text", each, object),), ("embedding",))
        for each in (["cat sat"], ["dog", "a good cat sat"], ["dog"])
    )
    shares = together(prepared, *(request.inputs() for request in asked))
    answers = []
    for request, (hidden,) in zip(asked, shares, strict=True):
        (vectors,) = request.answer([tensor("hidden", hidden)])
        answers.append(vectors.to_numpy())
    (whole,) = alone.answer(prepared.loaded.run(prepared.plan.completed(alone.inputs())))
    np.testing.assert_allclose(answers[1][0], whole.to_numpy()[0], rtol=1e-6)
    assert [len(answer) for answer in answers] == [1, 2]


def test_model_without_its_package_is_tensors(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    prepared = text_model(shop)
    assert prepared.task is None
    note = "its task is left out, which needs the package 'tokenizers'"
    assert prepared.notes[-1].startswith(note)


# measuring


class Timed(FakeModel):
    """A model whose every run takes the time that a test says."""

    seconds: Callable[[int], float]
    max_rows = max_width = 2**30
    adds_rows = False
    """Its rows mix, for each is larger by their number."""
    error: Exception | None = None
    grows: Callable[[tuple[int, ...]], object]
    """Is told the shape of a run whose memory is measured."""

    def __init__(self, clock: FakeClock, **how: Any) -> None:
        super().__init__(how.pop("inputs", SPEC))
        self.clock = clock
        self.seconds = lambda rows: 0.001 + 0.0001 * rows
        self.grows = lambda _: None
        self.shapes: list[tuple[int, ...]] = []
        self.from_rest: list[tuple[int, ...]] = []
        self._is_at_rest = False
        self._arena = ArenaWatch()
        vars(self).update(how)

    @property
    def rows(self) -> list[int]:
        """The rows of each run whose time is measured."""
        return [shape[0] for shape in self.shapes]

    @override
    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        """Everything fits."""

    @override
    def give_back(self) -> None:
        """The next run is one whose memory is measured, not its time."""
        self._is_at_rest = True

    @override
    def run(self, inputs: Sequence[Tensor], *_: object) -> list[Tensor]:
        shape = inputs[0].shape
        is_given_back = self._arena.is_due(inputs[0].size_bytes)
        if self._is_at_rest:
            self._is_at_rest = False
            self.from_rest.append(shape)
            if not is_given_back:
                self.grows(shape)
        else:
            self.shapes.append(shape)
        if self.error is not None:
            raise self.error
        if len(shape) > 1 and shape[1] > self.max_width:
            raise InvalidRequest("too wide")
        if shape[0] > self.max_rows:
            raise RunFailed(f"out of memory at {shape[0]} rows")
        self.clock.now_s += self.seconds(shape[0])
        y = Tensor("y", Datatype.FP32, shape, inputs[0].data)
        if self.adds_rows:
            y = Tensor.from_numpy("y", y.to_numpy() + np.float32(shape[0]))
        return [y]


class Bench:
    """Prepares timed models; every one takes 700 bytes of the device."""

    runtime = "fake 1"

    def __init__(self, folder: Path | None) -> None:
        self.clock = FakeClock()
        self.cache = ProfileCache(folder)
        self.circumstances = CIRCUMSTANCES
        self.free, self.used = 1_000_000, 5_000
        self.streams = 1
        self.stream: LoadedModel | None = None
        self.stream_loads = 0
        self.peak = 0
        """What a load takes and gives back before it ends."""
        self._is_seen = threading.Event()

    def free_bytes(self) -> int:
        return self.free

    def used_bytes(self) -> int:
        used = self.used
        if self.peak and used > self.peak:
            self._is_seen.set()
        return used

    def stop_switch(self) -> FakeSwitch:
        return FakeSwitch()

    def load(self, source: ModelSource) -> LoadedModel:
        raise NotImplementedError(f"{source} is loaded by the test")

    def load_stream(self, source: ModelSource) -> LoadedModel:
        del source
        self.stream_loads += 1
        assert self.stream is not None
        self.take(300, is_watched=self.stream_loads > 1)  # the first is to measure
        return self.stream

    def take(self, size_bytes: int, *, is_watched: bool = True) -> None:
        """Take memory for good, and `peak` for as long as it takes to be seen."""
        if self.peak and is_watched:
            self._is_seen.clear()
            self.used += self.peak
            assert self._is_seen.wait(LIMIT_S)
            self.used -= self.peak
        self.used += size_bytes

    def timed(self, seconds: Callable[[int], float] | None = None, **how: Any) -> Timed:
        return Timed(self.clock, **how, **({"seconds": seconds} if seconds else {}))

    @property
    def preparation(self) -> Preparation:
        return Preparation(self, self.cache, circumstances=self.circumstances, clock=self.clock)

    def prepare(
        self, model: LoadedModel, rules: Rules | None = None, *, digest: str = ""
    ) -> LoadResult:
        def load() -> LoadedModel:
            self.take(700)
            return model

        source = source_of(digest=digest, manifest=Manifest(rules=rules or Rules()))
        return self.preparation.prepare(source, load)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "profiles")


def points(prepared: LoadResult) -> list[tuple[int, float]]:
    return [(rows, pytest.approx(seconds)) for rows, seconds in prepared.measured.profile.points]


ALONE = Rules(batching=BatchingRules(is_enabled=False))


def up_to(rows: int) -> Rules:
    return Rules(batching=BatchingRules(max_rows=rows))


def test_rows_are_doubled_until_larger_batches_gain_no_more(bench: Bench) -> None:
    prepared = bench.prepare(bench.timed())
    assert points(prepared) == [(2**n, 0.001 + 0.0001 * 2**n) for n in range(11)]
    assert prepared.plan.batch_rows == 512  # within 2 % of the best
    assert prepared.measured.memory_bytes == 700


def test_rows_are_run_as_often_as_their_time_allows_and_medians_count(bench: Bench) -> None:
    model = bench.timed(lambda _: POINT_S / 4)
    bench.prepare(model, ALONE)
    # once to see that it runs, once for the shape, and then for as long as a point may take
    assert model.rows == [1] * (2 + 4)
    scatter = iter([1.0, 1.0, *[0.001, 0.001, 0.5] * 100])
    model = bench.timed(lambda _: next(scatter) * 1e-3)
    quick = bench.prepare(model, replace(ALONE, instances=2), digest="2")
    assert model.rows == [1] * (2 + POINT_RUNS)
    assert points(quick) == [(1, 1e-6)]
    model = bench.timed(lambda rows: BUDGET_S * rows)
    began_s = bench.clock.now_s
    assert points(bench.prepare(model, ALONE, digest="3")) == [(1, BUDGET_S)]
    assert bench.clock.now_s - began_s == pytest.approx(4 * BUDGET_S)


def test_other_work_of_the_machine_decides_no_choice_of_rows(bench: Bench) -> None:
    seen: Counter[int] = Counter()
    model = bench.timed()

    def seconds(rows: int) -> float:
        """A row takes 80 ms alone and 75 ms among four; a busy second makes it 90 while 4 rows are first timed."""
        seen[rows] += 1
        each_s = 0.080 if rows < 4 else 0.075
        return rows * (0.090 if rows == 4 and seen[rows] <= 3 else each_s)

    model.seconds = seconds
    prepared = bench.prepare(model, up_to(4))
    assert points(prepared) == [(1, 0.080), (2, 0.160), (4, 0.300)]
    assert prepared.plan.batch_rows == 4


def test_no_more_rows_are_tried_than_the_model_bears_or_memory_holds(bench: Bench) -> None:
    prepared = bench.prepare(bench.timed(lambda _: 0.001, max_rows=8))
    assert [rows for rows, _ in points(prepared)] == [1, 2, 4, 8]
    assert prepared.plan.batch_rows == 8

    def seconds(rows: int) -> float:
        if rows == 4:
            bench.free, bench.used = 99, 901
        return 0.001

    prepared = bench.prepare(bench.timed(seconds), digest="2")
    assert [rows for rows, _ in points(prepared)] == [1, 2, 4]


def test_error_that_nobody_expected_lets_the_model_go(bench: Bench) -> None:
    model = bench.timed()
    model.error = ZeroDivisionError("odd")
    with pytest.raises(ZeroDivisionError):
        bench.prepare(model)
    assert model.is_closed


OPEN = (TensorSpec("x", Datatype.FP32, (-1, -1)),)


def test_open_sizes_are_tried_until_one_runs(bench: Bench) -> None:
    model = bench.timed(inputs=OPEN, max_width=8)
    prepared = bench.prepare(model)
    assert model.shapes[:3] == [(1, dim) for dim in PROFILE_DIMS[:3]]
    assert {shape[1] for shape in model.shapes[3:] if shape[1] <= 8} == {8}
    assert prepared.measured.profile is not None
    assert not prepared.is_predictable


@pytest.mark.parametrize(
    ("spec", "is_predictable"),
    [
        (TensorSpec("x", Datatype.FP32, (-1, 2)), True),
        (TensorSpec("x", Datatype.FP32, (-1, -1)), False),
        (TensorSpec("x", Datatype.INT64, (-1, 2)), False),
        (TensorSpec("x", Datatype.BYTES, (-1, 2)), False),
    ],
    ids=str,
)
def test_time_of_a_run_is_reported_by_its_rows_where_nothing_else_differs(
    bench: Bench, spec: TensorSpec, is_predictable: bool
) -> None:
    prepared = bench.prepare(bench.timed(inputs=(spec,)))
    assert prepared.is_predictable is is_predictable
    model = bench.timed(inputs=(spec,))
    model.is_data_dependent = True
    assert not bench.prepare(model).is_predictable
    unmeasured = replace(prepared, measured=Measured(None, 0, is_batching=False))
    assert not unmeasured.is_predictable


# what was measured before


def test_second_start_measures_only_what_is_another(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_measured(rules: Rules | None = None, *, digest: str = "") -> bool:
        model = bench.timed()
        bench.prepare(model, rules, digest=digest)
        return len(model.rows) > 10

    first = bench.prepare(bench.timed())
    model = bench.timed()
    second = bench.prepare(model)
    assert model.rows == [1]  # its first run is slow: not for a caller
    assert (second.plan, second.measured) == (first.plan, first.measured)
    assert is_measured(digest="2")
    others = (up_to(4), Rules(warm_up=(WarmUp(),)), Rules(instances=3))
    alike = (Rules(is_pinned=True), Rules(instances=1))
    assert [is_measured(rules) for rules in (*others, *alike)] == [True] * 3 + [False] * 2
    bench.circumstances = {"device": "cpu", "threads": "2"}
    assert is_measured()
    bench.runtime = "fake 2"
    assert is_measured()
    monkeypatch.setattr(preparation, "REVISION", "another")
    assert is_measured()
    assert not is_measured()
    for file in (tmp_path / "profiles").iterdir():
        file.write_bytes(b"junk")
    assert is_measured()
    assert not is_measured()


# memory of a load


def test_memory_that_a_load_takes_at_its_peak_is_what_the_next_one_needs(bench: Bench) -> None:
    small, large = (source_of(size_bytes=size) for size in (100, 90_000))
    assert bench.preparation.needed_bytes(small) == 100
    bench.peak = 20_000
    measured = bench.prepare(bench.timed()).measured
    assert (measured.memory_bytes, measured.peak_bytes) == (700, 20_000)
    assert bench.preparation.needed_bytes(small) == 20_000
    assert bench.preparation.needed_bytes(large) == 90_000
    assert bench.prepare(bench.timed()).measured == measured  # as kept on disk


# runs of one thread beside one another


def slow(seconds: float = 0.01) -> Callable[[int], float]:
    """Return the time of a run, which a stream's run adds to the clock that all streams share."""
    return lambda rows: seconds * rows


def test_streams_are_kept_where_they_do_as_much_as_runs_of_all_threads(bench: Bench) -> None:
    stream = bench.timed(slow(0.009))
    bench.streams, bench.stream = 2, stream
    prepared = bench.prepare(bench.timed(slow()))  # no number of rows does more than another
    assert (prepared.streams.count, prepared.stream) == (2, stream)
    assert prepared.measured.stream_profile is prepared.streams.profile
    assert bench.stream_loads == 2  # to measure, and to keep
    assert prepared.plan.batch_rows == 1
    assert prepared.streams.rows == prepared.streams.profile.points[-1].rows == 8
    ran = len(stream.rows)
    again = bench.prepare(bench.timed(slow()))
    assert again.streams == prepared.streams
    assert len(stream.rows) == ran + 1  # its first run is slow: not for a caller
    assert bench.prepare(bench.timed(slow()), Rules(instances=2)).streams is None
    limited = bench.prepare(bench.timed(slow()), up_to(3))
    assert limited.streams.rows == 3
    bench.stream = None
    model = bench.timed(slow())
    with pytest.raises(AssertionError):  # the stream cannot be loaded: the model is let go
        bench.prepare(model)
    assert model.is_closed


# short runs


def quick(rows: int) -> float:
    return 1e-5 + 1e-6 * rows


@pytest.mark.parametrize("times", [0.5, 1.24, 1.26])
def test_short_runs_have_one_thread_where_more_gain_little(bench: Bench, times: float) -> None:
    model, alone = bench.timed(quick), bench.timed(lambda rows: times * quick(rows))
    bench.streams, bench.stream = 2, alone
    prepared = bench.prepare(model)
    is_alone = times < 1.25
    assert prepared.loaded is (alone if is_alone else model)
    assert model.is_closed is is_alone
    assert is_alone or alone.is_closed
    assert points(prepared)[0] == (1, (times if is_alone else 1) * quick(1))
    assert (prepared.stream, prepared.streams) == (None, None)
    if is_alone:
        assert bench.stream_loads == 2  # to measure, and to keep
        assert prepared.measured.memory_bytes == 1_300  # a fake does not give the first one's back
        ran = len(alone.rows)
        again = bench.prepare(bench.timed(quick))
        assert (again.loaded, again.measured) == (alone, prepared.measured)
        assert len(alone.rows) == ran + 1  # its first run is slow: not for a caller


def test_model_keeps_all_threads_where_its_rows_mix_on_one_alone(bench: Bench) -> None:
    model, alone = bench.timed(quick), bench.timed(quick, adds_rows=True)
    bench.streams, bench.stream = 2, alone
    prepared = bench.prepare(model)
    assert prepared.loaded is model
    assert prepared.plan.is_batching
    assert alone.is_closed


# what a run takes of the memory


def test_memory_of_a_run_is_measured_from_rest(bench: Bench) -> None:
    model = bench.timed(slow())

    model.grows = lambda shape: setattr(bench, "used", 5_700 + 1_000 * shape[0])
    need = bench.prepare(model).measured.need
    assert model.from_rest == [(32, 2), (1, 2)]  # 64 would take more than half a second
    assert need == RunNeed(elements=2, linear_bytes=pytest.approx(500.0))
    assert need.row_bytes == 1_500
    again = bench.timed()
    assert bench.prepare(again).measured.need == need
    assert again.from_rest == []
    # larger batches gain nothing, so that no run before is as large
    bench.used = 5_000
    even = bench.timed(lambda rows: 0.005 * rows, grows=model.grows)
    assert bench.prepare(even, digest="4").measured.need == need
    assert even.from_rest == [(64, 2), (1, 2)]
    # at least its inputs and outputs: two floats in, two out, each of 4 bytes
    least = bench.prepare(bench.timed(slow()), digest="2").measured.need
    assert least == RunNeed(elements=2, linear_bytes=8.0)
    model.error = RunFailed("never")
    assert bench.prepare(model, digest="3").measured.need is None


def test_language_model_is_ready_once_it_has_generated(shop: Shop) -> None:
    folder = shop.folder / "tiny"
    write_decoder_folder(folder / "1")
    (folder / "capamesh.toml").write_text("task = 'chat'")
    (source,) = scan(shop.folder).models
    prepared = shop.prepared(source)
    assert isinstance(prepared.loaded, LoadedDecoder)
    slots = prepared.loaded.slots
    assert (slots.count, slots.length, prepared.max_parts) == (8, CONTEXT, CONTEXT)
    assert prepared.plan == BatchPlan((), ())
    assert [slots.used(slot) for slot in range(slots.count)] == [0] * 8
    assert prepared.measured.memory_bytes >= source.size_bytes + prepared.loaded.pool_bytes
    (folder / "1" / "tokenizer.json").unlink()
    (source,) = scan(shop.folder).models
    with pytest.raises(ModelInvalid, match=r"'tokenizer\.json' is not in the model's folder"):
        shop.prepared(source)
