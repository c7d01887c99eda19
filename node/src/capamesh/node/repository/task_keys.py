"""The keys of a model's `capamesh.toml` that say what it is for, and how they become rules. Pure."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from typing_extensions import override

from capamesh.node.repository.limits import (
    MAX_FILE_BLOCK_BYTES,
    MAX_FILE_NAME_CHARS,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    MAX_IMAGE_SIDE,
    MAX_LOOKUP_TOKENS,
    MAX_NAME_CHARS,
    MAX_PIXEL_VALUE,
    MAX_TEXT_CHARS,
    MAX_TEXT_TOKENS,
    MIN_DEVIATION,
)
from capamesh.node.repository.task_rules import (
    Channels,
    EmbeddingRules,
    FileRules,
    Fit,
    GenerationRules,
    ImageRules,
    Layout,
    Pooling,
    TextRules,
)
from capamesh.protocol.schema import DISTINCT, Meta, Table

_Name: TypeAlias = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]
_Side: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_IMAGE_SIDE)]
_Pixel: TypeAlias = Annotated[float, Meta(ge=-MAX_PIXEL_VALUE, le=MAX_PIXEL_VALUE)]
_Deviation: TypeAlias = Annotated[float, Meta(ge=MIN_DEVIATION, le=MAX_PIXEL_VALUE)]
_EACH_CHANNEL: Final = Meta(max_length=3)


class TextTable(Table, frozen=True):
    """The way in which texts become tokens. For the tasks of texts."""

    tokenizer: Annotated[str, Meta(min_length=1, max_length=MAX_FILE_NAME_CHARS)] = (
        TextRules().tokenizer
    )
    """The tokenizer's file in the folder of each version, as Hugging Face's tokenizers write it."""
    ids: Annotated[_Name, Meta(min_length=1)] = TextRules().ids
    """The model's input of the tokens' numbers."""
    mask: _Name = TextRules().mask
    """The model's input that is 1 where there is a token, if it has one."""
    types: _Name = TextRules().types
    """The model's input that tells a text's parts apart, if it has one: it is all 0."""
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TEXT_TOKENS)] = TextRules().max_tokens
    """The most tokens of a text, those included that the tokenizer adds."""
    truncate: bool = TextRules().is_truncated
    """True if a text with more tokens is cut, false if it is refused."""
    max_chars: Annotated[int, Meta(ge=1, le=MAX_TEXT_CHARS)] = TextRules().max_chars
    """The most characters of a text; one with more is refused."""

    def rules(self) -> TextRules:
        """Return the rules that the table says."""
        return TextRules(
            self.tokenizer,
            self.ids,
            self.mask,
            self.types,
            self.max_tokens,
            self.truncate,
            self.max_chars,
        )


class EmbeddingTable(Table, frozen=True):
    """The way in which a model's output becomes one vector for each text. For `text-embedding`."""

    output: _Name = ""
    """The output with the vectors; missing: the model's only one."""
    pooling: Literal["mean", "first", "none"] = "mean"
    """The way in which the vectors of a text's tokens become one: their mean, or the first; "none" where the model gives one."""
    normalize: bool = EmbeddingRules().is_normalized
    """True if vectors are made 1 long."""
    shorten: bool = EmbeddingRules().may_be_shortened
    """True if callers may ask for fewer dimensions, as of models that were trained for that."""

    def rules(self) -> EmbeddingRules:
        """Return the rules that the table says."""
        return EmbeddingRules(self.output, Pooling(self.pooling), self.normalize, self.shorten)


class ImageTable(Table, frozen=True):
    """The way in which pictures become a tensor. For `image-classification`."""

    width: _Side
    """The width in pixels that the model takes."""
    height: _Side
    """The height in pixels that the model takes."""
    input: _Name = ""
    """The input of the pixels; missing: the model's only one."""
    channels: Literal["rgb", "grey"] = "rgb"
    """The numbers of each pixel."""
    layout: Literal["nchw", "nhwc", "flat"] = "nchw"
    """The order of the numbers: a plane for each channel, or the channels of a pixel side by side; "flat" in one dimension."""
    fit: Literal["stretch", "crop"] = "stretch"
    """The way in which other proportions become the model's: the picture is stretched, or its middle is taken."""
    invert: bool = ImageRules().is_inverted
    """True if the model takes dark as bright."""
    scale: _Pixel = ImageRules().scale
    """The factor by which pixels of 0 to 255 are taken; missing: 1/255."""
    mean: Annotated[tuple[_Pixel, ...], _EACH_CHANNEL] = ()
    """The number that is taken off then, or one a channel."""
    deviation: Annotated[tuple[_Deviation, ...], _EACH_CHANNEL] = ()
    """The number that is divided by then, or one a channel."""
    formats: Annotated[
        tuple[Literal["BMP", "GIF", "JPEG", "PNG", "WEBP"], ...],
        Meta(min_length=1),
        DISTINCT,
    ] = ("JPEG", "PNG", "WEBP")
    """The formats of files that are taken."""
    max_bytes: Annotated[int, Meta(ge=1, le=MAX_IMAGE_BYTES)] = ImageRules().max_bytes
    """The most bytes of a picture's file."""
    max_pixels: Annotated[int, Meta(ge=1, le=MAX_IMAGE_PIXELS)] = ImageRules().max_pixels
    """The most pixels of a picture as it comes."""

    @override
    def __post_init__(self) -> None:
        """Refuse as many numbers as there are no channels."""
        super().__post_init__()
        count = Channels(self.channels).numbers
        for key in ("mean", "deviation"):
            given = len(getattr(self, key))
            if given not in {0, 1, count}:
                raise ValueError(
                    f"{key} has {given} numbers; {self.channels} takes one, or {count}"
                )

    def rules(self) -> ImageRules:
        """Return the rules that the table says."""
        return ImageRules(
            self.input,
            self.width,
            self.height,
            Channels(self.channels),
            Layout(self.layout),
            Fit(self.fit),
            self.invert,
            self.scale,
            self.mean,
            self.deviation,
            self.formats,
            self.max_bytes,
            self.max_pixels,
        )


class FileTable(Table, frozen=True):
    """The way in which a file becomes a row of numbers: its first bytes, and its last ones. For `file-type`."""

    input: _Name = ""
    """The input of the bytes; missing: the model's only one."""
    block_bytes: Annotated[int, Meta(ge=1, le=MAX_FILE_BLOCK_BYTES)] = FileRules().block_bytes
    """The bytes at either end of a file that are looked at."""
    begin_bytes: Annotated[int, Meta(ge=0, le=MAX_FILE_BLOCK_BYTES)] = FileRules().begin_bytes
    """The bytes taken of the first block, once white space is left out before them; padding follows."""
    end_bytes: Annotated[int, Meta(ge=0, le=MAX_FILE_BLOCK_BYTES)] = FileRules().end_bytes
    """The bytes taken of the last block, once white space is left out behind them; padding goes before."""
    padding: Annotated[int, Meta(ge=0, le=2**31 - 1)] = FileRules().padding
    """The number that stands for no byte."""

    def rules(self) -> FileRules:
        """Return the rules that the table says."""
        return FileRules(
            self.input, self.block_bytes, self.begin_bytes, self.end_bytes, self.padding
        )


class GenerationTable(Table, frozen=True):
    """The way in which answers are generated. For `chat`."""

    lookup_tokens: Annotated[int, Meta(ge=0, le=MAX_LOOKUP_TOKENS)] = (
        GenerationRules().lookup_tokens
    )
    """The most tokens that are guessed of an answer that repeats its prompt or itself, and run at once; 0: none are."""
    control_tokens_in_text: bool = GenerationRules().control_tokens_in_text
    """True if the text of a control token within a message is that token; else it is plain text."""

    def rules(self) -> GenerationRules:
        """Return the rules that the table says."""
        return GenerationRules(self.lookup_tokens, self.control_tokens_in_text)
