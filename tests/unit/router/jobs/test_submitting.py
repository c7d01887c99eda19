"""What a client leaves out is filled in, a model is pinned by its content, and a key's scope holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_fakes import advert, offer

from capamesh.protocol.adverts import ModelOffer, Scheduling
from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.errors import CapameshError, Forbidden, InvalidRequest, ModelNotFound
from capamesh.protocol.fleet import Joined
from capamesh.protocol.tasks import Task
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.access.keys import OPERATOR, Key, Scope, Verb
from capamesh.router.fleet.view import FleetView
from capamesh.router.jobs.spec import JobSpec
from capamesh.router.jobs.submitting import spec_of, within_scope

TWO = (TensorSpec("x", Datatype.FP32, (-1, 2)), TensorSpec("k", Datatype.INT64, (-1,)))


def fleet_of(*models: ModelOffer) -> FleetView:
    fleet = FleetView(on_new=lambda _: None, on_gone=lambda _: None)
    fleet.apply([Joined(advert("A", models=models or (offer(),)))])
    return fleet


def key_for(**scope: Any) -> Key:
    return Key("id", b"", "lab", Scope(verbs=(Verb.JOBS,), **scope))


def job(url: str = "/data/in.jsonl", **more: Any) -> dict[str, Any]:
    return {"model": "m", "input": {"url": url}, **more}


def of_input(**more: Any) -> dict[str, Any]:
    return {"model": "m", "input": {"url": "/a.jsonl", "columns": {"x": ["pixels"]}, **more}}


BATCH = {"model": "m", "input": {"url": "/a", "format": "batch"}}


def read(values: dict[str, Any], fleet: FleetView | None = None, key: Key | None = None) -> JobSpec:
    return spec_of(values, fleet or fleet_of(), key)


def test_each_input_of_a_model_has_a_column_of_its_name() -> None:
    fleet = fleet_of(replace(offer(), inputs=TWO))
    assert read(job(), fleet).input.columns == {"x": ("x",), "k": ("k",)}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "model is missing"),
        ({"model": "m"}, "input is missing"),
        ({"model": 7, "input": {"url": "/a.csv"}}, "model is 7"),
        ({"model": "m", "input": []}, "input is a list of 0"),
        ({"model": "m", "input": {}}, "input.url is missing"),
        ({"model": "m", "input": {"url": 7}}, "input.url is 7"),
        (job("/d/in"), "input.format is missing, and the end of '/d/in' tells none"),
        (job("upload:file-1"), "input.format is missing"),
        (BATCH | {"output": {"format": "batch"}}, "made at /v1/batches"),
        (BATCH, "model 'm' does not generate; give its inputs as columns"),
        (job(model=""), "model"),
        (of_input(columns={}), "input.columns"),
        (of_input(columns={f"i{at}": ["c"] for at in range(65)}), "columns"),
        (of_input(format="xls"), "one of jsonl, csv"),
        (of_input(encoding={"y": "path"}), "encoding has 'y', which is none of the columns"),
        (of_input(encoding={"pixels": "hex"}), "one of base64, path"),
        (of_input(format="folder", encoding={"pixels": "path"}), "as they are"),
        (job(failure={"most_failures": 0}), "failure.most_failures"),
        (job(client_key="a\x1b[2J"), "client_key"),
        (job(modle="m"), r"unknown key modle \(did you mean model\?\)"),
        (job(deadline_s=600), "deadline_s is 600.0, which was in 1970"),
        (job(priority=0), "priority is 0"),
        (job(max_price=-1), "max_price is -1"),
        (job(regions=["eu", "eu"]), "regions has 'eu' 2 times"),
        (of_input(columns={"z": ["a"]}), "'z', and model 'm' has no such input; its inputs are x"),
    ],
)
def test_job_that_is_none_is_told_what_is_wrong(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(values)


@pytest.mark.parametrize("values", [job() | {"model": "none"}, job(version="9")])
def test_model_that_nobody_has_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ModelNotFound):
        read(values)


@pytest.mark.parametrize(
    ("values", "model", "words"),
    [
        (job(), {"scheduling": Scheduling.SEQUENCE}, "rows of a job have no order"),
        (of_input(), {"inputs": TWO}, "lacks the input 'k' of model 'm'"),
        (job("/d/in.npy"), {"inputs": TWO}, "fills one input, and model 'm' has 2"),
        (job(output={"classes": {"text": 2}}), {"task": Task.CHAT}, "answers of its endpoint"),
    ],
)
def test_job_that_does_not_fit_its_model_is_refused(
    values: dict[str, Any], model: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(values, fleet_of(replace(offer(), **model)))


# keys


def refusal_of(values: dict[str, Any], key: Key) -> CapameshError:
    with pytest.raises(CapameshError) as refusal:
        read(values, key=key)
    return refusal.value


def test_model_of_others_is_not_told_from_none() -> None:
    key = key_for(models=("mine",))
    told = {
        (type(error), error.message)
        for error in (refusal_of(job() | {"model": each}, key) for each in ("m", "none"))
    }
    assert told == {
        (Forbidden, "the key is not for this model; ask the router's operator for one that is")
    }


def test_job_is_no_more_urgent_than_its_key_allows() -> None:
    key = key_for(max_priority=100)
    assert read(job(priority=100), key=key).priority == 100
    assert "the job's priority is 99" in refusal_of(job(priority=99), key).message
    assert read(job(priority=1), key=OPERATOR).priority == 1
    assert read(job(priority=1)).priority == 1  # where no key is asked for


@pytest.mark.parametrize(("asked", "allowed"), [(None, 1.5), (9.0, 1.5), (1.0, 1.0)])
def test_job_pays_no_more_than_its_key_allows(asked: float | None, allowed: float) -> None:
    spec = read(job(max_price=asked), key=key_for(max_price=1.5))
    assert spec.max_price == allowed
    assert within_scope(spec, key_for(max_price=1.5)) == spec


def test_job_goes_to_no_other_region_than_its_keys() -> None:
    key = key_for(regions=("eu", "us"))
    assert read(job(), key=key).regions == ("eu", "us")
    assert read(job(regions=["us", "asia"]), key=key).regions == ("us",)
    assert read(job(regions=["asia"])).regions == ("asia",)
    assert refusal_of(job(regions=["asia"]), key).code == "forbidden"


def test_classes_are_asked_for_of_outputs_of_scores() -> None:
    scores = TensorSpec("scores", Datatype.FP32, (-1, 10))
    label = TensorSpec("label", Datatype.INT64, (-1,))
    fleet = fleet_of(replace(offer(), outputs=(label, scores)))
    assert read(job(output={"classes": {"scores": 3}}), fleet).output.classes == {"scores": 3}
    for name in ("label", "none"):
        with pytest.raises(
            InvalidRequest, match=f"{name!r}, which is no output of scores .* scores"
        ):
            read(job(output={"classes": {name: 1}}), fleet)
    for count in (0, 8193, 1.5):
        with pytest.raises(InvalidRequest, match="classes"):
            read(job(output={"classes": {"scores": count}}), fleet)
