"""The fields of an answer's and of a load's metadata, as msgspec reads them. Pure.

A module of its own, because it is not compiled: msgspec makes these classes in its own way.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from capamesh.protocol.schema import Meta, Raw, Struct, msgpack_reader

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Load: TypeAlias = Annotated[list[Count], Meta(min_length=6)]
"""The counts of a load, of which the first link version had six; those that this version does not know are ignored."""


class AnswerFields(
    Struct,
    gc=False,
    rename={"version": "v", "outputs": "o", "queue_us": "q", "run_us": "r", "load": "l"},
):
    """The metadata of an answer."""

    version: str
    outputs: Raw
    """The descriptions of its tensors, as they came."""
    queue_us: Count
    run_us: Count
    load: Load


class LoadFields(Struct, gc=False, rename={"load": "l"}):
    """The metadata of a LOAD frame."""

    load: Load


class ToldFields(Struct, gc=False, rename={"model": "m", "version": "v", "load": "l"}):
    """The metadata of a LOAD frame that nobody asked for."""

    model: str
    version: str
    load: Load


read_answer_fields = msgpack_reader(AnswerFields)
read_load_fields = msgpack_reader(LoadFields)
read_told_fields = msgpack_reader(ToldFields)
