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


class File(TypedDict):
    """An uploaded file, or one that a batch made."""

    id: str
    object: Literal["file"]
    bytes: Count
    """The bytes of the file; while they arrive, those that were announced."""
    created_at: Count
    """The time when it was made, in seconds since 1970."""
    expires_at: Count
    """The time when it is removed."""
    filename: str
    purpose: Literal["batch", "batch_output", "user_data"]
    status: Literal["pending", "processed"]
    """`pending` while its bytes arrive."""
    status_details: None
    offset: NotRequired[Count]
    """The bytes that are here of a file that arrives: where to go on."""


class FileForm(TypedDict):
    """The form of an upload."""

    file: bytes
    purpose: Literal["batch", "user_data"]


class Files(TypedDict):
    """Files, in the order of their times."""

    object: Literal["list"]
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool
    """True if there are more behind the last."""


class DeletedFile(TypedDict):
    """Says that a file is no more."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class ExpiresAfter(TypedDict):
    """The time for which files are kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class UploadRequest(TypedDict):
    """A file that is to come in parts. Other fields are skipped."""

    bytes: Count
    """The bytes of all parts together."""
    filename: str
    purpose: Literal["batch", "user_data"]
    mime_type: NotRequired[str]
    expires_after: NotRequired[ExpiresAfter | None]
    """The time for which the file is kept; left out: 30 days."""


class PartForm(TypedDict):
    """The form of a part."""

    data: bytes


class CompleteRequest(TypedDict):
    """The parts of an upload."""

    part_ids: list[str]
    """All of them, in their order."""
    md5: NotRequired[str | None]
    """The MD5 of the file, in hexadecimal digits; another one is refused."""


class UploadPart(TypedDict):
    """A part that is here."""

    id: str
    object: Literal["upload.part"]
    created_at: Count
    upload_id: str


class Upload(TypedDict):
    """A file that comes in parts."""

    id: str
    object: Literal["upload"]
    bytes: Count
    created_at: Count
    expires_at: Count
    """The time when it is forgotten unless a part comes."""
    filename: str
    purpose: Literal["batch", "batch_output", "user_data"]
    status: Literal["pending", "completed", "cancelled"]
    file: File | None
    """The file, once the upload is completed."""


class BatchRequest(TypedDict):
    """A batch that is wanted. Other fields are skipped."""

    input_file_id: str
    """The id of an uploaded file of purpose `batch`."""
    endpoint: Literal["/v1/embeddings", "/v1/chat/completions", "/v1/completions", "/v1/responses"]
    """The endpoint that all of its requests are for."""
    completion_window: str
    """The hours that it may take, such as `24h`."""
    metadata: NotRequired[dict[str, str] | None]
    """The client's own words about it: 16 entries at most."""
    output_expires_after: NotRequired[ExpiresAfter]
    """The time for which its files are kept; left out: 30 days."""


class BatchError(TypedDict):
    """A reason why a batch failed, or why its files are not there yet."""

    code: str
    message: str
    line: None
    param: None


class BatchErrors(TypedDict):
    """The reasons why a batch failed."""

    object: Literal["list"]
    data: list[BatchError]


class BatchCounts(TypedDict):
    """The requests of a batch."""

    total: Count
    """All of them; 0 until they are counted."""
    completed: Count
    failed: Count


class Batch(TypedDict):
    """A batch. Times are in seconds since 1970; null: not yet, or never."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str
    """The model that all of its requests name."""
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating",
        "in_progress",
        "finalizing",
        "completed",
        "failed",
        "expired",
        "cancelling",
        "cancelled",
    ]
    output_file_id: str | None
    """The answers, in the order of the requests; null: there are none, or not yet."""
    error_file_id: str | None
    """The requests without an answer, and why; null: likewise."""
    created_at: Count
    in_progress_at: Count | None
    expires_at: Count | None
    finalizing_at: Count | None
    completed_at: Count | None
    failed_at: Count | None
    expired_at: Count | None
    cancelling_at: Count | None
    cancelled_at: Count | None
    request_counts: BatchCounts
    metadata: dict[str, str] | None


class Batches(TypedDict):
    """Batches, the newest first."""

    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
    """True if there are more behind the last."""
