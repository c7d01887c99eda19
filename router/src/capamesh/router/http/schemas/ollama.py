"""The JSON of Ollama's routes, as types. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from capamesh.protocol.schema import Meta

Count = Annotated[int, Meta(ge=0)]


class OllamaMessage(TypedDict):
    """A message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]


class OllamaRequest(TypedDict):
    """The fields that both kinds of requests have; others are skipped."""

    model: str
    """A model for `chat`; `:latest` behind it is skipped."""
    stream: NotRequired[bool]
    """False if the answer is wanted at once; left out: true."""
    format: NotRequired[str | dict[str, Any] | None]
    """`json`, or a JSON schema that the answer must follow."""
    options: NotRequired[dict[str, Any] | None]
    """The way in which the answer is drawn: `temperature`, `top_p`, `top_k`, `min_p`, `seed`, `stop`, `num_predict`, penalties."""


class OllamaChatRequest(OllamaRequest):
    """A chat of which the next message is wanted."""

    messages: Annotated[list[OllamaMessage], Meta(min_length=1, max_length=2048)]
    tools: NotRequired[Annotated[list[dict[str, Any]], Meta(max_length=128)]]


class OllamaTextRequest(OllamaRequest):
    """A message, or with `raw` a text, of which the answer is wanted."""

    prompt: str
    system: NotRequired[str]
    raw: NotRequired[bool]
    """True if the text is gone on with as it is, without the model's template."""


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
