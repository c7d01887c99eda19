"""Writes a request for a model that anybody can send again: arrays for the command, JSON for curl.

Writes files, and asks a router to run what was written.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.client import Datatype, ModelMetadata, Tensor, TensorSpec
from capamesh.protocol.errors import CapameshError, InvalidRequest, TooLarge
from capamesh.protocol.oip import NO_PARAMETERS, Parameters, encode_request
from capamesh.protocol.tasks import Task

if TYPE_CHECKING:
    from capamesh.cli.operator_client import AsyncOperatorClient
    from capamesh.client import AsyncClient
    from capamesh.client.answers import SampleWindow


TRIAL_LIMIT_S: Final = 10.0
"""The longest time of a trial request (guess: a large model's first run; one row takes milliseconds to a second)."""
QUESTION: Final = "Tell me a story of a lighthouse in three sentences."
"""The question that people are shown to ask first."""
_FLOATS: Final = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})
WHOLE_SEQUENCE: Final[Parameters] = {
    "sequence_id": 990_001,
    "sequence_start": True,
    "sequence_end": True,
}
"""The parameters of a request that is a sequence by itself. The id is one that nobody else counts to (guess)."""


@dataclass(frozen=True, slots=True)
class Example:
    """A request on disk: the options of `capamesh infer`, and the body for curl; or a question to a model for chat."""

    model: str
    infer_options: str
    request: Path
    inputs: tuple[Tensor, ...]
    values: tuple[str, ...] = ()
    """The value of each input, in Python."""
    parameters: Parameters = field(default_factory=dict[str, Any])
    files: tuple[Path, ...] = ()
    """The files of its arrays."""
    is_sample: bool = False
    """True if it is of a case that comes with the model, not made up."""
    refusal: str = ""
    """The reason why nobody is shown the request; empty where the model runs it."""
    is_chat: bool = False
    """True of a model for chat."""

    def lines(self, url: str, router_option: str) -> list[str]:
        """Return the commands that send it to the router at `url`, which `router_option` names where that is needed."""
        if self.is_chat:
            return [
                f"capamesh chat {self.model}{router_option}",
                f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d @{self.request}",
            ]
        return [
            f"capamesh infer {self.model}{router_option} {self.infer_options}",
            f"curl {url}/v2/models/{self.model}/infer -d @{self.request}",
        ]

    def python(self, url: str) -> str:
        """Return a program of one line that sends it to the router at `url`."""
        begun = f"from capamesh.client import Client; client = Client({json.dumps(url)}); "
        model = json.dumps(self.model)
        if self.is_chat:
            return f"{begun}print(client.chat({model}, {json.dumps(QUESTION)}, max_tokens=50).text)"
        pairs = zip(self.inputs, self.values, strict=True)
        arrays = ", ".join(f"{json.dumps(tensor.name)}: {value}" for tensor, value in pairs)
        given = ", ".join(
            f"{json.dumps(name)}: {value!r}" for name, value in self.parameters.items()
        )
        more = f", parameters={{{given}}}" if given else ""
        return f"import numpy as np; {begun}print(client.infer({model}, {{{arrays}}}{more}))"


async def tried_examples(
    client: AsyncOperatorClient, models: Sequence[str], folder: Path, cases: Path
) -> list[Example]:
    """Write an example of each model into `folder` and run it, so that nobody is shown one that fails.

    `cases` has an archive `MODEL.npz` for those that come with one. One that keeps states between requests is sent a whole
    sequence. Those whose sizes can only be guessed are not sent anything, so that a new network has no failed requests.
    """
    examples: list[Example] = []
    tasks = await client.tasks()
    for name in models:
        if tasks.get(name) == Task.CHAT:
            examples.append(await _chat_example(client, name, folder))
            continue
        metadata = await client.metadata(name)
        is_sequential = "sequence_batching" in await client.config(name)
        parameters = WHOLE_SEQUENCE if is_sequential else NO_PARAMETERS
        example = write_example(folder, metadata, cases / f"{name}.npz", parameters)
        guessed = _guessed(metadata, example)
        if guessed is None:
            refusal = await _refusal(client, example, parameters)
        else:
            sizes = ",".join(map(str, guessed.shape))
            refusal = f"the sizes of its input {guessed.name!r} cannot be made up: {guessed.datatype.value}[{sizes}]"
        if refusal:
            for file in (example.request, *example.files):
                file.unlink(missing_ok=True)
        examples.append(replace(example, refusal=refusal))
    return examples


async def _refusal(client: AsyncClient, example: Example, parameters: Parameters) -> str:
    """Return why the model refuses the example, empty where it runs it."""
    inputs = {tensor.name: tensor for tensor in example.inputs}
    try:
        await client.infer(example.model, inputs, timeout_s=TRIAL_LIMIT_S, parameters=parameters)
    except (InvalidRequest, TooLarge) as error:
        return f"it refuses one that is made up: {error.message}"
    except CapameshError:
        pass  # it is busy, or slow: that says nothing of the example
    return ""


async def _chat_example(client: AsyncClient, name: str, folder: Path) -> Example:
    """Write a question for a model for chat into `folder`, and have the model begin to answer it."""
    request = _write_question(folder, name)
    refusal = ""
    try:
        await client.chat(name, QUESTION, max_tokens=1, timeout_s=TRIAL_LIMIT_S)
    except (InvalidRequest, TooLarge) as error:
        refusal = f"it refuses a short question: {error.message}"
    except CapameshError:
        pass  # it is busy, or slow: that says nothing of the example
    return Example(name, "", request, (), refusal=refusal, is_chat=True)


def _write_question(folder: Path, name: str) -> Path:
    """Return the file of a question, written."""
    folder.mkdir(parents=True, exist_ok=True)
    request = folder / f"{name}.json"
    body = {"model": name, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 50}
    request.write_text(json.dumps(body), encoding="utf-8")
    return request


def _guessed(metadata: ModelMetadata, example: Example) -> TensorSpec | None:
    """Return an input of which no example can be made up: sound and pictures, whose sizes are open; None: there is none.

    Words and their numbers may be any number, as rows may.
    """
    if example.is_sample:
        return None
    for spec in metadata.inputs:
        if metadata.window is not None and spec.name == metadata.window.input:
            continue
        if spec.datatype in _FLOATS and any(dim < 0 for dim in spec.shape[1:]):
            return spec
    return None


def write_example(
    folder: Path,
    metadata: ModelMetadata,
    case: Path,
    parameters: Parameters = NO_PARAMETERS,
) -> Example:
    """Write one request for a model into `folder`: the first row of its sample `case` if there is one, else zeros.

    A case is an archive with `rows` for the model's only input, or for the one of its window.
    """
    folder.mkdir(parents=True, exist_ok=True)
    window = metadata.window
    sample = _case_rows(metadata, case)
    arrays = {spec.name: _made_up(spec, window) for spec in metadata.inputs} | sample
    tensors: list[Tensor] = []
    options: list[str] = []
    values: list[str] = []
    files: list[Path] = []
    for number, spec in enumerate(metadata.inputs):
        array = arrays[spec.name]
        tensors.append(Tensor.from_numpy(spec.name, array, spec.datatype))
        if spec.datatype is Datatype.BYTES:
            options.append(f"--input {shlex.quote(f'{spec.name}={json.dumps(array.tolist())}')}")
            values.append(json.dumps(array.tolist()))
            continue
        path = folder / f"{metadata.name}-{number}.npy"
        np.save(path, array, allow_pickle=False)
        options.append(f"--input {shlex.quote(f'{spec.name}=@{path}')}")
        files.append(path)
        values.append(f"np.load({json.dumps(str(path))})")
    options += [f"-p {name}={json.dumps(value)}" for name, value in parameters.items()]
    request = folder / f"{metadata.name}.json"
    buffers, _ = encode_request(tensors, parameters=parameters, is_binary=False)
    request.write_bytes(b"".join(buffers))
    return Example(
        metadata.name,
        " ".join(options),
        request,
        tuple(tensors),
        tuple(values),
        parameters,
        tuple(files),
        is_sample=bool(sample),
    )


def _case_rows(metadata: ModelMetadata, case: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the first row of a sample by the input that it is for; empty where there is none."""
    names = [spec.name for spec in metadata.inputs]
    name = metadata.window.input if metadata.window else names[0] if len(names) == 1 else ""
    spec = next((spec for spec in metadata.inputs if spec.name == name), None)
    if spec is None or not case.is_file():
        return {}
    with np.load(case, allow_pickle=False) as archive:
        rows = archive["rows"][:1]
    fits = spec.accepts(Datatype.of_numpy(rows.dtype), rows.shape) is None
    return {name: rows} if fits else {}  # a user's own model of the same name


def _made_up(spec: TensorSpec, window: SampleWindow | None) -> npt.NDArray[Any]:
    """Return an input of zeros: as many as a window has, or the value that the model's manifest gives it."""
    if window is not None and spec.name == window.input:
        return np.zeros((1, window.context + window.samples), spec.datatype.numpy_dtype)
    if window is not None and spec.name in window.constants:
        return np.full_like(_zeros(spec), window.constants[spec.name])
    return _zeros(spec)


def _zeros(spec: TensorSpec) -> npt.NDArray[Any]:
    shape = tuple(1 if dim < 0 else dim for dim in spec.shape)
    if spec.datatype is Datatype.BYTES:
        return np.full(shape, "text", dtype=object)
    if spec.datatype is Datatype.BF16:
        return np.zeros(shape, np.float32)
    return np.zeros(shape, spec.datatype.numpy_dtype)
