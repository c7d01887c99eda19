from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from fleet_fakes import OUT, SPEC, NullLog
from onnx import helper

from capamesh.node.store import ModelSource
from capamesh.node.worker.models import UNVERIFIED, HostedModels
from capamesh.protocol.adverts import ModelState, NodeAdvert, Sequence, advert_to_body
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.tensors import Datatype, TensorSpec

M = ModelName("m")
ANY = ModelVersion("")
GRAPH = helper.make_model(
    helper.make_graph([], "g", [], []), ir_version=10, opset_imports=[helper.make_opsetid("", 21)]
).SerializeToString()
assert isinstance(onnx.load_from_string(GRAPH), onnx.ModelProto)


class Loaded:
    outputs = OUT
    provider = "CPUExecutionProvider"

    def __init__(self, inputs: tuple[TensorSpec, ...] = SPEC) -> None:
        self.inputs = inputs
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Backend:
    """Loads everything but the versions it was told to refuse."""

    def __init__(self, *bad: str) -> None:
        self.bad = bad
        self.loaded: list[str] = []

    def load(self, source: ModelSource) -> Loaded:
        name = f"{source.name}/{source.version}"
        self.loaded.append(name)
        if name in self.bad:
            raise ModelInvalid("an operator is unknown")
        if source.name == "wide":
            self.wide = Loaded(tuple(TensorSpec(f"x{n}", Datatype.FP32, (1,)) for n in range(1025)))
            return self.wide
        return Loaded()


class Rig:
    def __init__(self, root: Path, *bad: str) -> None:
        self.backend = Backend(*bad)
        self.log = NullLog()
        self.told: list[list[str]] = []
        self.models = HostedModels(
            root,
            self.backend,  # type: ignore[arg-type]
            max_in_flight=64,
            on_change=self._changed,
            log=self.log,  # type: ignore[arg-type]
        )

    def _changed(self) -> None:
        offers = self.models.offers()
        advert_to_body(
            NodeAdvert(PeerId("p"), Sequence(0, 0), (), offers, "", 0.0, "0.1", is_draining=False)
        )
        self.told.append([f"{one.name}/{one.version} {one.state}" for one in offers])


def put(root: Path, name: str, data: bytes = GRAPH) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


async def test_models_load_one_after_the_other_and_each_is_told_of(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    put(tmp_path, "m/2/model.onnx")
    rig = Rig(tmp_path)
    assert rig.models.provider == UNVERIFIED
    assert rig.models.describe() == "none that is ready"
    await rig.models.load_all()
    assert rig.told == [
        ["m/1 loading", "m/2 loading"],
        ["m/1 ready", "m/2 loading"],
        ["m/1 ready", "m/2 ready"],
    ]
    assert rig.models.provider == "CPUExecutionProvider"
    assert rig.models.describe() == "m/1, m/2"
    first, second = rig.models.offers()
    assert (first.inputs, first.outputs, first.reason) == (SPEC, OUT, "")
    assert first.digest == second.digest
    assert first.digest.startswith("sha256:")


async def test_the_newest_ready_version_is_the_default_by_number(tmp_path: Path) -> None:
    for version in ("9", "10", "11"):
        put(tmp_path, f"m/{version}/model.onnx")
    rig = Rig(tmp_path, "m/11")
    await rig.models.load_all()
    newest = rig.models.find(M, ANY)
    assert newest is not None
    assert newest.version == "10"
    older = rig.models.find(M, ModelVersion("9"))
    assert older is not None
    assert older.version == "9"
    assert rig.models.find(M, ModelVersion("11")) is None
    assert rig.models.find(ModelName("x"), ANY) is None
    assert rig.models.is_known(M, ModelVersion("11"))
    assert rig.models.is_known(M, ANY)
    assert not rig.models.is_known(M, ModelVersion("12"))
    assert not rig.models.is_known(ModelName("x"), ANY)


async def test_a_model_that_cannot_be_loaded_says_why_and_hides_no_other(tmp_path: Path) -> None:
    put(tmp_path, "bad/1/model.onnx")
    put(tmp_path, "m/1/model.onnx")
    rig = Rig(tmp_path, "bad/1")
    await rig.models.load_all()
    failed, ready = rig.models.offers()
    assert (failed.state, failed.reason) == (ModelState.FAILED, "an operator is unknown")
    assert ready.state is ModelState.READY
    assert rig.log.events == ["model_failed", "model_ready"]


@pytest.mark.parametrize(
    ("stray", "is_offered"),
    [
        ("notes/todo.txt", False),
        ("no model\nname/1/model.onnx", False),
        ("zeros/01/model.onnx", True),
        ("arabic/\u0661/model.onnx", False),
        ("huge/" + "9" * 40 + "/model.onnx", False),
        ("dangling/1/readme", True),
        ("\u00e9.onnx", False),
    ],
)
async def test_what_a_folder_holds_besides_never_makes_an_advert_that_cannot_be_sent(
    tmp_path: Path, stray: str, is_offered: bool
) -> None:
    put(tmp_path, stray, b"")
    put(tmp_path, "m/1/model.onnx")
    rig = Rig(tmp_path)
    await rig.models.load_all()
    assert "model_refused" in rig.log.events
    states = [one.state for one in rig.models.offers()]
    assert sorted(states) == [ModelState.FAILED, ModelState.READY][not is_offered :]
    assert rig.models.find(M, ANY) is not None


async def test_an_operator_s_own_limit_goes_before_the_worker_s(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    put(tmp_path, "n/1/model.onnx")
    put(tmp_path, "n/capamesh.toml", b"max_queue = 3\n")
    rig = Rig(tmp_path)
    await rig.models.load_all()
    limits = [rig.models.find(ModelName(name), ANY).max_in_flight for name in ("m", "n")]  # type: ignore[union-attr]
    assert limits == [64, 3]


async def test_an_empty_folder_is_told_of_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.models.load_all()
    assert rig.told == [[]]
    assert rig.models.offers() == ()


async def test_a_model_that_no_advert_can_carry_fails_and_is_let_go(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    put(tmp_path, "wide/1/model.onnx")
    rig = Rig(tmp_path)
    await rig.models.load_all()
    assert rig.told[-1] == ["m/1 ready", "wide/1 failed"]
    (_, wide) = rig.models.offers()
    assert "models[0].inputs" in wide.reason
    assert "1024" in wide.reason
    assert rig.models.find(ModelName("wide"), ANY) is None
    assert rig.backend.wide.is_closed
