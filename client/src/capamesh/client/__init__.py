"""The SDK: numpy arrays in, numpy arrays out, through any router.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.infer("digits", {"X": rows})

`AsyncClient` has the same methods. All errors are `CapameshError`, and have a `message`, a `code` and `is_retryable`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from capamesh.client.answers import HeldList, ModelEntry, ModelMetadata, Outputs
from capamesh.client.arrays import InputValue
from capamesh.client.class_scores import ClassScore
from capamesh.client.embeddings import Embeddings
from capamesh.client.errors import (
    AdvertRejected,
    Cancelled,
    CapameshError,
    ClientError,
    ConfigError,
    ContextExceeded,
    CutOff,
    DeadlineExceeded,
    Draining,
    FileConflict,
    FileNotFound,
    Forbidden,
    InputChanged,
    InputInvalid,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    JobsUnavailable,
    KeysUnavailable,
    KeyUsed,
    LinkLost,
    LocalError,
    ModelFailed,
    ModelNotFound,
    ModelUnavailable,
    NoEndpoint,
    NotInJson,
    NotMember,
    OutputFailed,
    Overloaded,
    PeerError,
    PlaceUnavailable,
    ProtocolViolation,
    RequestKills,
    RunFailed,
    SequenceLost,
    SequenceUnknown,
    ShutOut,
    SizeRefused,
    StorageFull,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unreachable,
    Unsatisfiable,
    Unsupported,
)
from capamesh.client.generation.sync_texts import TextStream
from capamesh.client.generation.values import (
    Choice,
    Generation,
    TextPiece,
    TokenLogprob,
    TokenUsage,
    ToolCall,
)
from capamesh.client.routing_options import RoutingOptions
from capamesh.client.sequences import AsyncModelSequence, ModelSequence
from capamesh.client.sync_client import Client
from capamesh.client.timings import Timings
from capamesh.protocol.tensors import Datatype, Limits, Tensor, TensorSpec

if TYPE_CHECKING:
    from capamesh.client.async_client import AsyncClient
    from capamesh.client.generation.async_texts import AsyncTextStream
    from capamesh.client.jobs.async_jobs import AsyncFiles, AsyncJob, AsyncJobs
    from capamesh.client.jobs.sync_jobs import Files, Job, Jobs
    from capamesh.client.jobs.values import (
        BadRow,
        FileInfo,
        JobEvent,
        JobInfo,
        JobProgress,
        JobPromise,
        JobResult,
    )

__all__ = [
    "AdvertRejected",
    "AsyncClient",
    "AsyncFiles",
    "AsyncJob",
    "AsyncJobs",
    "AsyncModelSequence",
    "AsyncTextStream",
    "BadRow",
    "Cancelled",
    "CapameshError",
    "Choice",
    "ClassScore",
    "Client",
    "ClientError",
    "ConfigError",
    "ContextExceeded",
    "CutOff",
    "Datatype",
    "DeadlineExceeded",
    "Draining",
    "Embeddings",
    "FileConflict",
    "FileInfo",
    "FileNotFound",
    "Files",
    "Forbidden",
    "Generation",
    "HeldList",
    "InputChanged",
    "InputInvalid",
    "InputValue",
    "InvalidRequest",
    "Job",
    "JobConflict",
    "JobEvent",
    "JobInfo",
    "JobNotFound",
    "JobProgress",
    "JobPromise",
    "JobResult",
    "Jobs",
    "JobsUnavailable",
    "KeyUsed",
    "KeysUnavailable",
    "Limits",
    "LinkLost",
    "LocalError",
    "ModelEntry",
    "ModelFailed",
    "ModelMetadata",
    "ModelNotFound",
    "ModelSequence",
    "ModelUnavailable",
    "NoEndpoint",
    "NotInJson",
    "NotMember",
    "OutputFailed",
    "Outputs",
    "Overloaded",
    "PeerError",
    "PlaceUnavailable",
    "ProtocolViolation",
    "RequestKills",
    "RoutingOptions",
    "RunFailed",
    "SequenceLost",
    "SequenceUnknown",
    "ShutOut",
    "SizeRefused",
    "StorageFull",
    "Tensor",
    "TensorSpec",
    "TextPiece",
    "TextStream",
    "Timings",
    "TokenLogprob",
    "TokenUsage",
    "TooLarge",
    "TooManyRequests",
    "ToolCall",
    "Unauthenticated",
    "Unreachable",
    "Unsatisfiable",
    "Unsupported",
]


_LATER = {
    "AsyncClient": "async_client",
    "AsyncTextStream": "generation.async_texts",
    **dict.fromkeys(("AsyncFiles", "AsyncJob", "AsyncJobs"), "jobs.async_jobs"),
    **dict.fromkeys(("Files", "Job", "Jobs"), "jobs.sync_jobs"),
    **dict.fromkeys(
        ("BadRow", "FileInfo", "JobEvent", "JobInfo", "JobProgress", "JobPromise", "JobResult"),
        "jobs.values",
    ),
}
"""The modules of what is imported when it is asked for: aiohttp takes longer to import than all the rest, and most clients have no
job.
"""


def __getattr__(name: str) -> object:
    """Import what `_LATER` has."""
    if name in _LATER:
        return getattr(import_module(f"capamesh.client.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
