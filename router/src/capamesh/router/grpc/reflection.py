"""Server reflection: tells clients such as grpcurl which services there are, and what their messages look like. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capamesh.router.grpc.messages import CLASSES, FILES, Message
from capamesh.router.grpc.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor_pb2 import FileDescriptorProto

REFLECTIONS: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
"""The service by both its names: older clients know the second alone."""
REFLECTION_METHOD: Final = "ServerReflectionInfo"


class Reflection:
    """The descriptions of all that this router speaks, which are the same for every router of its version."""

    def __init__(self) -> None:
        self._files = {file.name: file.SerializeToString() for file in FILES}
        self._places = {symbol: file.name for file in FILES for symbol in _symbols(file)}
        """The file of each symbol, by its full name."""
        self._services = sorted(
            f"{file.package}.{service.name}" for file in FILES for service in file.service
        )

    def answer(self, request: Message) -> Message:
        """Return the answer to one request: what was asked for, or in it that there is no such thing."""
        told = CLASSES["ServerReflectionResponse"](
            valid_host=request.host, original_request=request
        )
        match request.WhichOneof("choice"):
            case "list_services":
                for service in self._services:
                    told.list_services_response.service.add(name=service)
            case "file_by_filename":
                self._add_file(told, request.file_by_filename)
            case "file_containing_symbol":
                symbol = str(request.file_containing_symbol)
                self._add_file(told, self._places.get(symbol, symbol))
            case "all_extension_numbers_of_type" if (
                request.all_extension_numbers_of_type in self._places
            ):
                told.all_extension_numbers_response.base_type_name = (
                    request.all_extension_numbers_of_type
                )
            case "all_extension_numbers_of_type":
                _refuse(told, request.all_extension_numbers_of_type)
            case "file_containing_extension":
                _refuse(told, f"extension of {request.file_containing_extension.containing_type}")
            case _:
                told.error_response.error_code = int(Status.INVALID_ARGUMENT)
                told.error_response.error_message = "the request asks for nothing"
        return told

    def _add_file(self, told: Message, name: str) -> None:
        file = self._files.get(name)
        if file is None:
            _refuse(told, name)
        else:
            told.file_descriptor_response.file_descriptor_proto.append(file)


def _refuse(told: Message, name: str) -> None:
    told.error_response.error_code = int(Status.NOT_FOUND)
    told.error_response.error_message = (
        f"there is no {name[:200]!r} here; list_services tells what there is"
    )


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    """Yield the full names of all that a file describes."""
    for message in file.message_type:
        yield f"{file.package}.{message.name}"
        for field in message.field:
            yield f"{file.package}.{message.name}.{field.name}"
        for entry in message.nested_type:
            yield f"{file.package}.{message.name}.{entry.name}"
    for enum in file.enum_type:
        yield f"{file.package}.{enum.name}"
        for value in enum.value:
            yield f"{file.package}.{value.name}"
    for service in file.service:
        yield f"{file.package}.{service.name}"
        for method in service.method:
            yield f"{file.package}.{service.name}.{method.name}"
