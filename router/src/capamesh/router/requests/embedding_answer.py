"""Writes the answer to a request for embeddings, as OpenAI has it. Pure."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import NotInJson, RunFailed, TooLarge
from capamesh.protocol.oip.json_data import write_in_steps
from capamesh.protocol.oip.json_text import quoted
from capamesh.protocol.steps import run_through
from capamesh.protocol.tasks import EMBEDDING
from capamesh.protocol.tensors import Datatype, Tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from capamesh.protocol.steps import Steps
    from capamesh.router.requests.embedding_request import EmbeddingRequest

STEP_NUMBERS: Final = 4096
"""The numbers that are written in a step (measured: 2 ms)."""


def written(
    asked: EmbeddingRequest, vectors: npt.NDArray[np.float32], tokens: int, room_bytes: int
) -> Steps[list[bytes]]:
    """Return an answer's body in pieces, with `vectors` of the shape [texts, dimensions] in the order of the texts.

    Raises `TooLarge`: it would have more than `room_bytes`; `RunFailed`: a number is none that JSON has.
    """
    pieces = [b'{"object":"list","data":[']
    since = 0
    for place, vector in enumerate(vectors):
        head = f'{"," if place else ""}{{"object":"embedding","index":{place},"embedding":'
        pieces.append(head.encode())
        if asked.is_base64:
            pieces.append(b'"%b"' % base64.b64encode(vector.tobytes()))
        else:
            row = Tensor(EMBEDDING, Datatype.FP32, vector.shape, vector.tobytes())
            try:
                pieces += run_through(write_in_steps(row, room_bytes))
            except NotInJson as exc:
                raise RunFailed(
                    f"the vector of text {place} has NaN or an infinity, which is the model's doing"
                ) from exc
        pieces.append(b"}")
        room_bytes -= sum(map(len, pieces[-4:]))
        if room_bytes < 0:
            raise TooLarge(
                "the answer is over the router's limit on JSON: send fewer texts at once, or ask for base64"
            )
        since += len(vector)
        if since >= STEP_NUMBERS:
            since = 0
            yield
    usage = f'"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}'
    pieces.append(f'],"model":{quoted(asked.model)},{usage}}}'.encode())
    return pieces
