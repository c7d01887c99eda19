"""Makes a whole spec of what a client says of a job, within its key's scope, and pins its model version. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast

from capamesh.protocol.adverts import ModelOffer, Scheduling
from capamesh.protocol.errors import Forbidden, InvalidRequest
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.schema import Mismatch, plain_values, read
from capamesh.protocol.tasks import INPUTS, TEXT, Task
from capamesh.protocol.tensors import has_classes
from capamesh.router.access.keys import OPERATOR, check_scope
from capamesh.router.balancing.absence import not_hosted
from capamesh.router.jobs.inputs.arrays import NPY_COLUMN
from capamesh.router.jobs.inputs.folder import CONTENT_COLUMN
from capamesh.router.jobs.inputs.requests import COLUMNS
from capamesh.router.jobs.spec import InputFormat, JobSpec, OutputFormat
from capamesh.router.jobs.values import Pinned

if TYPE_CHECKING:
    from capamesh.router.access.keys import Key
    from capamesh.router.fleet.view import FleetView

ENDINGS: Final[Mapping[str, InputFormat]] = {
    ".jsonl": InputFormat.JSONL,
    ".ndjson": InputFormat.JSONL,
    ".csv": InputFormat.CSV,
    ".parquet": InputFormat.PARQUET,
    ".arrow": InputFormat.ARROW,
    ".feather": InputFormat.ARROW,
    ".npy": InputFormat.NPY,
    ".npz": InputFormat.NPZ,
}
"""The forms that a name's ending tells."""
_LONE_COLUMNS: Final = {InputFormat.NPY: NPY_COLUMN, InputFormat.FOLDER: CONTENT_COLUMN}
"""The column of the forms that have but one for a model."""


def spec_of(values: Mapping[str, object], fleet: FleetView, key: Key | None) -> JobSpec:
    """Return the job that a client's JSON describes, with the form and the columns of the input filled in where it names none.

    The key is one that may submit jobs; None: no key is asked for. Raises as `pinned` and `within_scope`, and `InvalidRequest`.
    """
    given = dict(values)
    source = given.get("input")
    needs_columns = False
    if isinstance(source, dict):
        source = dict(cast("dict[str, object]", source))
        if "format" not in source:
            source["format"] = _form_of(source.get("url"))
        needs_columns = "columns" not in source
        if needs_columns:  # what else is wrong is told first
            source["columns"] = {"x": ["x"]}
        given["input"] = source
    spec = within_scope(_read(given), key)
    if spec.output.format is OutputFormat.BATCH:
        raise InvalidRequest("OpenAI's batches, whose answers are files, are made at /v1/batches")
    _, offer = pinned(spec, fleet)
    if needs_columns:
        plain: dict[str, Any] = plain_values(spec)
        if offer.task is Task.CHAT and spec.input.format is InputFormat.JSONL:
            plain["input"]["format"] = InputFormat.BATCH.value
        if plain["input"]["format"] == InputFormat.BATCH.value:
            plain["input"]["columns"] = dict(COLUMNS)
        else:
            plain["input"]["columns"] = _columns_for(offer, spec.input.format)
        spec = _read(plain)
    check_columns(spec, offer)
    check_classes(spec, offer)
    return spec


def pinned(spec: JobSpec, fleet: FleetView) -> tuple[Pinned, ModelOffer]:
    """Return the model version that a job runs from now on, by its content, and how nodes describe it.

    Raises what a request for a model that nobody has is told, or `InvalidRequest`: the model takes no rows by themselves.
    """
    model, version = ModelName(spec.model), ModelVersion(spec.version)
    offer = fleet.offer(model, version)
    if offer is None:
        raise not_hosted(fleet, model, version)
    if offer.scheduling is Scheduling.SEQUENCE:
        raise InvalidRequest(
            f"model {model!r} has a state from one request to the next, and rows of a job have no order; use a stream"
        )
    return Pinned(offer.version, offer.digest), offer


def check_columns(spec: JobSpec, offer: ModelOffer) -> None:
    """Raise `InvalidRequest` unless a job fills each input of its model, and no other, or one of what the model is for."""
    if spec.input.format is InputFormat.BATCH:
        if offer.task is not Task.CHAT:
            raise InvalidRequest(
                f"input.format is 'batch', and model {spec.model!r} does not generate; give its inputs as columns, or make a batch"
                " at /v1/batches"
            )
        return
    given, wanted = set(spec.input.columns), {each.name for each in offer.inputs}
    if len(given) == 1 and given <= set(INPUTS[offer.task]):
        return
    for name in sorted(given - wanted):
        raise InvalidRequest(
            f"input.columns has {name[:80]!r}, and model {spec.model!r} has no such input; its inputs are"
            f" {_shown(sorted(wanted))}"
        )
    for name in sorted(wanted - given):
        raise InvalidRequest(
            f"input.columns lacks the input {name[:80]!r} of model {spec.model!r}: say which column goes into it"
        )


def check_classes(spec: JobSpec, offer: ModelOffer) -> None:
    """Raise `InvalidRequest` unless each output whose classes a job asks for is one of scores."""
    outputs = {each.name: each for each in offer.outputs}
    for name in spec.output.classes:
        if name not in outputs or not has_classes(outputs[name]):
            scores = [each.name for each in offer.outputs if has_classes(each)]
            raise InvalidRequest(
                f"output.classes has {name[:80]!r}, which is no output of scores of model {spec.model!r}; those are {_shown(scores)}"
            )


def within_scope(spec: JobSpec, key: Key | None) -> JobSpec:
    """Return a job at no other price or nodes than its key is for.

    Raises `Forbidden`: the key is not for the model or the regions, or the job is more urgent than the key allows.
    """
    if key is None or key is OPERATOR:
        return spec
    check_scope(key, spec.model)
    scope = key.scope
    if spec.priority < scope.max_priority:
        raise Forbidden(
            f"the job's priority is {spec.priority}, and the key's most urgent one is {scope.max_priority}; name that, or none"
        )
    narrowed: dict[str, object] = {}
    if scope.max_price is not None and (spec.max_price is None or spec.max_price > scope.max_price):
        narrowed["max_price"] = scope.max_price
    if scope.regions:
        both = [each for each in spec.regions or scope.regions if each in scope.regions]
        if not both:
            raise Forbidden(
                f"the job names the regions {_shown(spec.regions)}, and the key is for {_shown(scope.regions)}; name one of"
                " these, or none"
            )
        narrowed["regions"] = both
    return _read({**plain_values(spec), **narrowed}) if narrowed else spec


def _read(values: Mapping[str, object]) -> JobSpec:
    try:
        return read(values, JobSpec)
    except Mismatch as exc:
        raise InvalidRequest(str(exc)) from exc


def _form_of(url: object) -> str:
    """Return the form that a URL's ending tells. Raises `InvalidRequest`: it tells none."""
    if not isinstance(url, str):
        return InputFormat.JSONL.value  # of the two, the URL is told to be wrong
    form = ENDINGS.get(PurePosixPath(url).suffix.lower())
    if form is None and url.endswith("/"):
        form = InputFormat.FOLDER
    if form is None:
        raise InvalidRequest(
            f"input.format is missing, and the end of {url[-80:]!r} tells none; name one of {_shown(list(InputFormat))}"
        )
    return form.value


def _columns_for(offer: ModelOffer, form: InputFormat) -> dict[str, list[str]]:
    """Return a column for each input of a model: that of the input's name, or the only one that the form has.

    Files are what the model is for, where it is for texts, pictures or files; so are texts in a column of that name.
    """
    lone = _LONE_COLUMNS.get(form)
    of_task = INPUTS[offer.task][:1]
    if of_task and (form is InputFormat.FOLDER or of_task == (TEXT,)):
        return {of_task[0]: [lone or of_task[0]]}
    if lone is None:
        return {each.name: [each.name] for each in offer.inputs}
    if len(offer.inputs) != 1:
        raise InvalidRequest(
            f"an input of the form {form} fills one input, and model {offer.name!r} has {len(offer.inputs)}; use another form"
        )
    return {offer.inputs[0].name: [lone]}


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names)[:200] or "none"
