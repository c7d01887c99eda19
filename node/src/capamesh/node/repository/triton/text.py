"""Reads the text of a `config.pbtxt` with protobuf's own reader, on a descriptor made here. Pure.

The descriptor has the fields of `fields`; their numbers are of no meaning, for nothing is read in binary form.
protobuf does not tell where a field stood. So one walk over the words of the text finds the lines, and refuses by
their names the fields that are unknown or have no counterpart, before protobuf reads it.

This is the only module of the node that needs protobuf at run time: import it where there is a file to read.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from capamesh.node.repository.triton.fields import ENUMS, MESSAGES, REFUSED, TOP
from capamesh.node.repository.triton.message import Message, Place, complaint, field_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message as ProtobufMessage

_SHOWN_CHARS: Final = 80  # guess: enough to find the field again
_REASON_CHARS: Final = 200  # guess: protobuf's own words with a value of usual length
_PROTOBUFS_PLACE: Final = re.compile(r"^\d+:\d+ : (?:'.*': )?", re.DOTALL)
"""It repeats the whole line, which may be long; ours is named by its number."""
_PACKAGE: Final = "capamesh.triton"

_WORD: Final = re.compile(
    r"""
      \#.*
    | "(?: [^"\\] | \\. )*["\\]?
    | '(?: [^'\\] | \\. )*['\\]?
    | [A-Za-z_][A-Za-z0-9_]*
    | [-+.0-9A-Za-z_]+
    | \S
    """,
    re.VERBOSE,
)
"""Always matches what a quote begins, so that the walk over a line is linear."""
_SCALARS: Final = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "integer": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "number": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    "flag": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
}


def read_text(text: str, file: str) -> Message:
    """Return the message in `text`.

    Raises ModelInvalid, which names `file` and the line: not protobuf's text format, a field that is unknown or
    refused, a value of the wrong type.
    """
    place = _Walk(file).whole(text)
    values = _new_top()
    try:
        text_format.Parse(text, values)
    except text_format.ParseError as exc:
        reason = _PROTOBUFS_PLACE.sub("", str(exc))
        raise complaint(file, exc.GetLine(), reason[:_REASON_CHARS]) from exc
    return Message(values, place, file)


class _Walk:
    """One pass over the words of a text; in one that protobuf then refuses it may find anything."""

    def __init__(self, file: str) -> None:
        self._file = file

    def whole(self, text: str) -> Place:
        """Return where the fields of `text` are."""
        top = Place()
        open_messages = [_Open(top, _TOP_DESCRIPTOR, "")]
        for (word, line), (after, _) in itertools.pairwise(
            itertools.chain(_words(text), [("", 0)])
        ):
            here = open_messages[-1]
            if word in "{<":
                field = here.field
                if field is None or field.message_type is None:
                    break  # protobuf says what is wrong
                open_messages.append(here.opened(field.message_type, is_repeated=field.is_repeated))
            elif word in "}>":
                if len(open_messages) == 1:
                    break  # protobuf says what is wrong
                open_messages.pop()
            elif word == "[" and not here.is_at_list:
                raise complaint(
                    self._file, line, "extensions and names in brackets are not read; remove them"
                )
            elif _is_word(word) and after and after in ":{<[":
                self._check_name(here, word, line)
                here.begin(word, line)
            elif _is_word(word):
                self._check_choice(here, word, line)
            here.is_at_list = word == ":" or (_is_word(word) and after == "[")
        return top

    def _check_name(self, here: _Open, name: str, line: int) -> None:
        descriptor = here.descriptor
        if name in descriptor.fields_by_name:
            return
        path = field_path(here.path, name)[:_SHOWN_CHARS]
        reason = REFUSED.get(descriptor.name, {}).get(name)
        if reason is not None:
            raise complaint(self._file, line, f"{path}: {reason}")
        known = ", ".join(sorted(descriptor.fields_by_name))
        raise complaint(self._file, line, f"unknown field {path!r}; known are {known}")

    def _check_choice(self, here: _Open, word: str, line: int) -> None:
        field = here.field
        if field is None or field.enum_type is None or word in field.enum_type.values_by_name:
            return
        path = field_path(here.path, here.name)
        known = ", ".join(field.enum_type.values_by_name)
        raise complaint(
            self._file, line, f"{path} is {word[:_SHOWN_CHARS]}, expected one of {known}"
        )


class _Open:
    """A message whose end is not reached."""

    def __init__(self, place: Place, descriptor: Descriptor, path: str) -> None:
        self.place = place
        self.descriptor = descriptor
        self.path = path
        self.name = ""
        """The field that was begun last."""
        self.is_at_list = False
        """True while a list of values may begin."""

    @property
    def field(self) -> FieldDescriptor | None:
        """The field that was begun last, None before the first."""
        return self.descriptor.fields_by_name.get(self.name)

    def begin(self, name: str, line: int) -> None:
        """Go on with the field `name`."""
        self.name = name
        self.place.lines.setdefault(name, line)

    def opened(self, descriptor: Descriptor, *, is_repeated: bool) -> _Open:
        """Return the message that begins in the field that was begun last."""
        places = self.place.inner.setdefault(self.name, [])
        places.append(Place())
        path = field_path(self.path, self.name)
        index = f"[{len(places) - 1}]" if is_repeated else ""
        return _Open(places[-1], descriptor, path + index)


def _is_word(word: str) -> bool:
    """Return whether `word` may be a field's name or an enum's value; a number is refused as both, for the descriptor's are its own."""
    return word[0].isalnum() or word[0] == "_"


def _words(text: str) -> Iterator[tuple[str, int]]:
    """Yield the words of `text` with their lines; no word spans two, and comments are none."""
    for number, line in enumerate(text.split("\n"), 1):
        for match in _WORD.finditer(line):
            if not match[0].startswith("#"):
                yield match[0], number


def _descriptor() -> Descriptor:
    """Return the descriptor of a whole file."""
    file = descriptor_pb2.FileDescriptorProto(name="capamesh/triton.proto", package=_PACKAGE)
    for name, choices in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, choice in enumerate(choices):
            enum.value.add(name=choice, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields.items(), 1):
            one = kind.removesuffix("*")
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            if one in _SCALARS:
                field.type = _SCALARS[one]
            else:
                field.type = field.TYPE_ENUM if one in ENUMS else field.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{one}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName(f"{_PACKAGE}.{TOP}")


_TOP_DESCRIPTOR: Final = _descriptor()


def _new_top() -> ProtobufMessage:
    return message_factory.GetMessageClass(_TOP_DESCRIPTOR)()
