"""The JSON of Ollama's routes, as types. Pure."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from capamesh.protocol.schema import Meta
from capamesh.router.requests.generation.bodies import OllamaMessage

Count = Annotated[int, Meta(ge=0)]


class OllamaTold(TypedDict):
    """The fields that both kinds of answers have."""

    model: str
    created_at: str
    done: bool
    done_reason: NotRequired[Literal["stop", "length"]]
    total_duration: NotRequired[Count]
    """Nanoseconds."""
    load_duration: NotRequired[Count]
    prompt_eval_count: NotRequired[Count]
    """The tokens of the prompt."""
    prompt_eval_duration: NotRequired[Count]
    eval_count: NotRequired[Count]
    """The tokens of the answer."""
    eval_duration: NotRequired[Count]


class OllamaChat(OllamaTold):
    """The next message of a chat."""

    message: OllamaMessage


class OllamaText(OllamaTold):
    """The answer as a text."""

    response: str


class OllamaDetails(TypedDict):
    """The details of a model."""

    format: str
    family: str
    parameter_size: str


class OllamaModel(TypedDict):
    """A model."""

    name: str
    model: str
    modified_at: str
    size: Count
    """The bytes of it, which nobody knows: 0."""
    digest: str
    details: OllamaDetails


class OllamaModels(TypedDict):
    """The models for chat."""

    models: list[OllamaModel]


class OllamaVersion(TypedDict):
    """The version of the program."""

    version: str
