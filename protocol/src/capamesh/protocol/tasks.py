"""The tasks that models are for, and the tensors by which these are asked for and answered beside a model's own. Pure.

A node makes the model's own inputs of a task's. These are BYTES, one element a row, so that a request of a task has rows
as every other has.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.tensor_spec import ANY_DIM, TensorSpec


class Task(StrEnum):
    """The task that a model is for, where its node can be asked for just that."""

    NONE = ""
    """The model takes its own tensors alone."""
    TEXT_EMBEDDING = "text-embedding"
    TEXT_CLASSIFICATION = "text-classification"
    IMAGE_CLASSIFICATION = "image-classification"
    FILE_TYPE = "file-type"
    CHAT = "chat"
    """The model answers messages, and goes on with texts, token by token."""


TEXT: Final = "text"
"""The input of texts in UTF-8: BYTES [rows]."""
TOKEN_IDS: Final = "token_ids"  # noqa: S105 - no password
"""The input of texts that are tokens already: BYTES [rows], each the tokens' numbers as little-endian int32."""
IMAGE: Final = "image"
"""The input of pictures as their files have them: BYTES [rows]."""
FILE: Final = "file"
"""The input of files of any kind: BYTES [rows]."""
GENERATION: Final = "generation"
"""The input of what is to be generated: BYTES [1], a JSON object with the prompt and how to go on with it."""
PARTS: Final = "parts"
"""The output of what was generated: BYTES [1], a JSON list of pieces of choices. Each part of an answer has such a list."""
DIMENSIONS: Final = "dimensions"
"""The input that asks for shorter embeddings: INT32 [1]. It may be left out."""
EMBEDDING: Final = "embedding"
"""The output of embeddings: FP32 [rows, dimensions]."""
TOKENS: Final = "tokens"
"""The output of how many tokens each text has: INT32 [rows]."""

INPUTS: Final = {
    Task.NONE: (),
    Task.TEXT_EMBEDDING: (TEXT, TOKEN_IDS),
    Task.TEXT_CLASSIFICATION: (TEXT, TOKEN_IDS),
    Task.IMAGE_CLASSIFICATION: (IMAGE,),
    Task.FILE_TYPE: (FILE,),
    Task.CHAT: (GENERATION,),
}
"""The inputs, one of which a request of a task brings."""
INPUT_SPECS: Final = {
    task: tuple(TensorSpec(name, Datatype.BYTES, (ANY_DIM,)) for name in names)
    for task, names in INPUTS.items()
}
"""The same inputs, as described by a model's own."""
_EMBEDDINGS: Final = TensorSpec(EMBEDDING, Datatype.FP32, (ANY_DIM, ANY_DIM))
_COUNTS: Final = TensorSpec(TOKENS, Datatype.INT32, (ANY_DIM,))
OUTPUTS: Final = {
    Task.NONE: (),
    Task.TEXT_EMBEDDING: (_EMBEDDINGS, _COUNTS),
    Task.TEXT_CLASSIFICATION: (_COUNTS,),
    Task.IMAGE_CLASSIFICATION: (),
    Task.FILE_TYPE: (),
    Task.CHAT: (TensorSpec(PARTS, Datatype.BYTES, (1,)),),
}
"""The outputs that a request of a task may name beside the model's own; one that names none gets the model's own."""
