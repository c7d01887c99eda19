"""The JSON of OpenAI's routes, as types. Pure."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from capamesh.protocol.schema import Meta
from capamesh.router.http.schemas.fleet import OwnedVersion

Count = Annotated[int, Meta(ge=0)]


class OpenAIErrorBody(TypedDict):
    """The error: what went wrong."""

    message: str
    """The reason, what is allowed, and what to do: a sentence for people."""
    type: str
    """The kind of error, in OpenAI's words."""
    param: str | None
    """The field of the body that is wrong; null: none, or no single one."""
    code: str | None
    """The error in one word, which the header `X-Capamesh-Error` has, too."""


class OpenAIError(TypedDict):
    """Whatever went wrong, as OpenAI's clients read it."""

    error: OpenAIErrorBody


class EmbeddingsRequest(TypedDict):
    """Texts of which vectors are wanted. Other fields are skipped."""

    model: str
    """A model for `text-embedding`."""
    input: str | list[str | int | list[int]]
    """A text, texts, the tokens of a text, or those of several texts."""
    encoding_format: NotRequired[Literal["float", "base64"]]
    """The form of the vectors: numbers, or base64 of their little-endian float32."""
    dimensions: NotRequired[int]
    """The length of the vectors, where the model's manifest lets them be shortened."""


class Embedding(TypedDict):
    """The vector of one text."""

    object: Literal["embedding"]
    index: Count
    """The place of the text in the request."""
    embedding: list[float] | str


class EmbeddingsUsage(TypedDict):
    """The tokens of all texts."""

    prompt_tokens: Count
    total_tokens: Count


class Embeddings(TypedDict):
    """The vectors of all texts, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class Model(TypedDict):
    """A model that can be asked for."""

    id: str
    """The model's name."""
    object: Literal["model"]
    created: Count
    """The time when it was made, which nobody knows: 0."""
    owned_by: str
    task: str | None
    """The task that it is for; null: it takes its own tensors alone."""
    versions: list[str]


class Models(TypedDict):
    """The models that can be asked for."""

    object: Literal["list"]
    data: list[Model]
    models: NotRequired[list[OwnedVersion]]
    """The file that each hosted version is served as; for keys that may read the network."""
