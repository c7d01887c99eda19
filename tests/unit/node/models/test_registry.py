from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from fleet_fakes import OUT, SPEC, advert, fp32
from worker_fakes import FakeModel, engine_of, source_of

from capamesh.node.models.preparation import LoadResult
from capamesh.node.models.refusals import keys_of
from capamesh.node.models.registry import (
    HostedModel,
    ModelRegistry,
    ready_offer,
)
from capamesh.node.profiling.profile_cache import Measured
from capamesh.node.repository import Refused
from capamesh.node.repository.declared import DeclaredIo
from capamesh.node.repository.rules import ControlKind, ControlTensor
from capamesh.node.scheduling import BatchPlan, PendingRequest, RunBounds
from capamesh.node.scheduling.run_health import FAILED_REQUESTS
from capamesh.node.scheduling.runner import ModelRunner
from capamesh.protocol.adverts import (
    MAX_MODELS,
    ModelState,
    advert_to_body,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.tensors import Datatype, TensorSpec

M = ModelName("m")
ANY = ModelVersion("")
NO_RUNNER = cast("ModelRunner", None)
"""Nothing is run here."""


def hosted(name: str = "m", version: str = "1") -> HostedModel:
    prepared = LoadResult(FakeModel(), BatchPlan(SPEC, OUT), Measured(None, 7, is_batching=True))
    return HostedModel(source_of(name, version), prepared, NO_RUNNER)


def key(name: str, version: str) -> tuple[ModelName, ModelVersion]:
    return ModelName(name), ModelVersion(version)


def running(
    name: str = "m", version: str = "1", *, answered: int = 0, in_flight: int = 0
) -> HostedModel:
    """Return a model whose engine has answered so many, and has so many under way."""
    one = hosted(name, version)
    batcher = engine_of(FakeModel())
    for _ in range(answered):
        batcher.meter.answered("ok")
    for _ in range(in_flight):
        x = (fp32("x", [1.0, 2.0]),)
        batcher.submit(PendingRequest(x, (), lambda *_: None, arrived_s=0.0), 0.0)
    one.runner = cast("ModelRunner", SimpleNamespace(scheduler=batcher))
    return one


def counted(models: ModelRegistry) -> list[tuple[object, ...]]:
    return [
        (one["name"], one["load"], cast("dict[str, int]", one["requests"])["ok"], one["in_flight"])
        for one in models.counts()
    ]


def test_each_load_of_a_model_is_counted_until_its_last_request_has_ended() -> None:
    models = ModelRegistry()
    old, new = running(answered=3, in_flight=2), running(answered=1)
    models.ready(old)
    assert counted(models) == [("m", 1, 3, 2)]
    models.ready(new)
    assert counted(models) == [("m", 2, 1, 0), ("m", 1, 3, 2)]
    assert models.withdraw(key("m", "1")) is new
    new.runner.scheduler.meter.answered("ok")
    assert counted(models) == [("m", 1, 3, 2), ("m", 2, 2, 0)]
    assert counted(models) == [("m", 1, 3, 2)]
    batch = old.runner.scheduler.take(1.0)
    assert batch is not None
    old.runner.scheduler.finished(batch, [[fp32("y", [1.0, 2.0])]] * 2, 2.0, run_s=1.0)
    assert counted(models) == [("m", 1, 5, 0)]
    assert counted(models) == []


def test_newest_ready_version_is_the_default_by_number() -> None:
    models = ModelRegistry()
    nine, ten = hosted(version="9"), hosted(version="10")
    models.ready(ten)
    models.ready(nine)
    models.say(key("m", "11"), ModelState.FAILED, "an operator is unknown")
    assert models.find(M, ANY) is ten
    assert models.find(M, ModelVersion("9")) is nine
    assert models.find(M, ModelVersion("11")) is None
    assert models.find(ModelName("x"), ANY) is None
    assert list(models) == [ten, nine]
    assert models.withdraw(key("m", "10")) is ten
    assert models.find(M, ANY) is nine
    assert models.withdraw(key("m", "10")) is None
    assert models.withdraw(key("m", "9")) is nine
    assert models.find(M, ANY) is None
    assert list(models) == []


def test_ready_models_are_kept_of_more_than_an_advert_holds() -> None:
    models = ModelRegistry()
    for number in range(MAX_MODELS):
        models.say(key(f"a{number:04}", "1"), ModelState.FAILED, "broken")
    assert len(models.offers()) == MAX_MODELS
    models.ready(hosted("z", "1"))
    models.ready(hosted("z", "2"))
    offers = models.offers()
    assert len(offers) == MAX_MODELS
    assert [one.version for one in offers if one.is_ready] == ["1", "2"]
    assert [one.name for one in offers] == sorted(one.name for one in offers)
    assert offers[-3].name == f"a{MAX_MODELS - 3:04}"
    advert_to_body(advert("node", "h:1", models=offers))  # which carries all of them


def test_model_whose_runs_fail_is_ready_and_its_offer_says_so() -> None:
    models = ModelRegistry()
    good, bad = running("good"), running("bad")
    models.ready(good)
    models.ready(bad)
    assert not models.reported_anew()
    for number in range(FAILED_REQUESTS):
        bad.runner.scheduler.health.failed([fp32("x", [number])], "broken")
    assert models.reported_anew()
    assert not models.reported_anew()
    said = {offer.name: (offer.state, offer.reason[:9]) for offer in models.offers()}
    assert said == {"good": (ModelState.READY, ""), "bad": (ModelState.READY, "degraded:")}
    bad.runner.scheduler.health.succeeded()
    assert models.reported_anew()
    assert all(offer.reason == "" for offer in models.offers())


ROWS = TensorSpec("x", Datatype.FP32, (-1, 2))
ONE = TensorSpec("x", Datatype.FP32, (2,))


@pytest.mark.parametrize(
    ("spec", "declared", "asked_rows", "held_rows", "expected"),
    [
        (ROWS, DeclaredIo(), 0, 262_613_588, 1024),
        (ROWS, DeclaredIo(), 0, 0, 1024),
        (ROWS, DeclaredIo(), 0, 300, 300),
        (ROWS, DeclaredIo(), 4096, 262_613_588, 4096),
        (ROWS, DeclaredIo((ONE,), has_batch_axis=True), 8, 262_613_588, 8),
        (ROWS, DeclaredIo((ROWS,)), 0, 262_613_588, 0),  # max_batch_size: 0
        (ONE, DeclaredIo(), 0, 262_613_588, 0),
    ],
)
def test_max_batch_size_is_the_configured_one_or_what_a_client_can_use(
    spec: TensorSpec, declared: DeclaredIo, asked_rows: int, held_rows: int, expected: int
) -> None:
    plan = BatchPlan((spec,), (replace(spec, name="y"),), max_rows=asked_rows)
    prepared = LoadResult(FakeModel(), plan, Measured(None, 7, is_batching=True))
    bounds = cast("RunBounds", SimpleNamespace(most_rows=held_rows))
    source = replace(source_of(), declared=declared)
    one = HostedModel(source, prepared, NO_RUNNER, bounds=bounds)
    assert ready_offer(one).max_batch_size == expected


def test_max_batch_size_of_a_model_with_sequences_is_one_row() -> None:
    start = ControlTensor("start", ControlKind.START, Datatype.BOOL)
    inputs = (ROWS, TensorSpec("start", Datatype.BOOL, (-1, 1)))
    plan = BatchPlan(inputs, (replace(ROWS, name="y"),), controls=(start,))
    prepared = LoadResult(FakeModel(), plan, Measured(None, 7, is_batching=True))
    assert ready_offer(HostedModel(source_of(), prepared, NO_RUNNER)).max_batch_size == 1


@pytest.mark.parametrize(
    ("refused", "known", "expected"),
    [
        (Refused("m", "3", "r"), [], [("m", "3")]),
        (Refused("m", "", "r", ("10", "2")), [], [("m", "2"), ("m", "10")]),
        (Refused("m", "", "r", ("2",)), [("m", "1"), ("n", "7")], [("m", "1"), ("m", "2")]),
        (Refused("m", "", "r", ("2",)), [("m", "0")], [("m", "2")]),
        (Refused("a\x1b]b", "", "r"), [], [("a\ufffd]b", "0")]),
        (Refused("bad\udcff", "", "r"), [], [("bad?", "0")]),
        (Refused("x" * 300, "", "r"), [], [("x" * 256, "0")]),
    ],
)
def test_refusal_is_of_these_model_versions(
    refused: Refused, known: list[tuple[str, str]], expected: list[tuple[str, str]]
) -> None:
    assert keys_of(refused, known) == expected
