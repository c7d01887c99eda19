"""The rules of what a model is for, and how requests for that become its tensors. Pure values; `task_keys` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from capamesh.protocol.tasks import Task


class Pooling(StrEnum):
    """The ways in which the vectors of a text's tokens become one."""

    MEAN = "mean"
    """The mean of all tokens' vectors."""
    FIRST = "first"
    """The first token's."""
    NONE = "none"
    """The model gives one already."""


class Channels(StrEnum):
    """The numbers that a model takes of each pixel."""

    RGB = "rgb"
    GREY = "grey"

    @property
    def numbers(self) -> int:
        """Return how many numbers a pixel has."""
        return 3 if self is Channels.RGB else 1


class Layout(StrEnum):
    """The orders of the numbers of a picture."""

    NCHW = "nchw"
    """A plane for each channel."""
    NHWC = "nhwc"
    """The channels of a pixel side by side."""
    FLAT = "flat"
    """The order of `NHWC`, in one dimension."""


class Fit(StrEnum):
    """The ways in which a picture of other proportions becomes one of the model's."""

    STRETCH = "stretch"
    CROP = "crop"
    """The middle is taken, the rest is cut off."""


@dataclass(frozen=True, slots=True)
class TextRules:
    """The rules by which texts become tokens."""

    tokenizer: str = "tokenizer.json"
    """The file in the version's folder that says how."""
    ids: str = "input_ids"
    """The model's input of the tokens' numbers, [rows, tokens]; the next two may be missing."""
    mask: str = "attention_mask"
    """The model's input that is 1 where there is a token and 0 behind a text's end."""
    types: str = "token_type_ids"
    """The model's input that tells a text's parts apart: all 0."""
    max_tokens: int = 512
    """The most tokens of a text."""
    is_truncated: bool = True
    """True if a longer text is cut, False if it is refused."""
    max_chars: int = 32_768
    """The most characters of a text."""


@dataclass(frozen=True, slots=True)
class EmbeddingRules:
    """The rules by which a model's output becomes one vector for each text."""

    output: str = ""
    """The output; empty: the model's only one."""
    pooling: Pooling = Pooling.MEAN
    is_normalized: bool = True
    """True if vectors are made 1 long."""
    may_be_shortened: bool = False
    """True if a caller may ask for fewer dimensions: the first ones, made 1 long again."""


@dataclass(frozen=True, slots=True)
class ImageRules:
    """The rules by which pictures become a tensor: pixels of 0 to 255, times `scale`, less `mean`, by `deviation`."""

    input: str = ""
    """The input; empty: the model's only one."""
    width: int = 0
    height: int = 0
    """The size in pixels that the model takes."""
    channels: Channels = Channels.RGB
    layout: Layout = Layout.NCHW
    fit: Fit = Fit.STRETCH
    is_inverted: bool = False
    """True if the model takes dark as bright."""
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    """One number, or one a channel; empty: 0."""
    deviation: tuple[float, ...] = ()
    """One number, or one a channel; empty: 1."""
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")
    """The formats that are taken."""
    max_bytes: int = 16 * 2**20
    """The most bytes of a picture's file."""
    max_pixels: int = 2**24
    """The most pixels of a picture, before it is made as large as the model takes it."""


@dataclass(frozen=True, slots=True)
class FileRules:
    """The rules by which a file becomes a row of numbers: its first bytes, and its last ones, with padding between them."""

    input: str = ""
    """The input; empty: the model's only one."""
    block_bytes: int = 4096
    """The bytes at either end of a file that are looked at."""
    begin_bytes: int = 1024
    """The bytes taken of the first block, once white space is left out before them."""
    end_bytes: int = 1024
    """The bytes taken of the last block, once white space is left out behind them."""
    padding: int = 256
    """The number that stands for no byte."""


@dataclass(frozen=True, slots=True)
class GenerationRules:
    """The rules by which answers are generated."""

    lookup_tokens: int = 0
    """The most tokens that are guessed of an answer that repeats what came before; 0: none are."""
    control_tokens_in_text: bool = False
    """True if the text of a control token within a message is that token, as if the template had written it."""


@dataclass(frozen=True, slots=True)
class TaskRules:
    """The task of a model, and the rules of that; the others mean nothing."""

    task: Task = Task.NONE
    text: TextRules = field(default_factory=TextRules)
    embedding: EmbeddingRules = field(default_factory=EmbeddingRules)
    image: ImageRules = field(default_factory=ImageRules)
    file: FileRules = field(default_factory=FileRules)
    generation: GenerationRules = field(default_factory=GenerationRules)
