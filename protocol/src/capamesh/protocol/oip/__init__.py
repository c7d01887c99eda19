"""Open Inference Protocol v2 over HTTP: the bodies of requests and answers, in both directions. Pure.

With Triton's binary tensor data extension, a body is JSON followed by raw tensors, and the header
`Inference-Header-Content-Length` tells where the JSON ends.
"""

from __future__ import annotations

from capamesh.protocol.oip.decoding import (
    decode_request,
    decode_request_in_steps,
    decode_response,
    json_refusal,
    parse_header_length,
)
from capamesh.protocol.oip.encoding import (
    encode_request,
    encode_response,
    encode_response_in_steps,
    error_body,
)
from capamesh.protocol.oip.forms import RequestForms
from capamesh.protocol.oip.json_text import parse_object
from capamesh.protocol.oip.messages import (
    HEADER_LENGTH_NAME,
    NO_PARAMETERS,
    InferRequest,
    InferResponse,
    Parameters,
    RequestedOutput,
)
from capamesh.protocol.oip.metadata import (
    IndexState,
    has_batch_axis,
    index_entry,
    model_config_body,
    model_metadata_body,
)
from capamesh.protocol.oip.statistics import ModelStatistics, model_statistics_entry
from capamesh.protocol.oip.text_forms import TextForms

__all__ = [
    "HEADER_LENGTH_NAME",
    "NO_PARAMETERS",
    "IndexState",
    "InferRequest",
    "InferResponse",
    "ModelStatistics",
    "Parameters",
    "RequestForms",
    "RequestedOutput",
    "TextForms",
    "decode_request",
    "decode_request_in_steps",
    "decode_response",
    "encode_request",
    "encode_response",
    "encode_response_in_steps",
    "error_body",
    "has_batch_axis",
    "index_entry",
    "json_refusal",
    "model_config_body",
    "model_metadata_body",
    "model_statistics_entry",
    "parse_header_length",
    "parse_object",
]
