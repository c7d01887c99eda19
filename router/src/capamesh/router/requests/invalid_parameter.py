"""The error of a request one field of which is wrong. Pure."""

from __future__ import annotations

from capamesh.protocol.errors import InvalidRequest


class InvalidParameter(InvalidRequest):
    """A field of a request's body is not what it must be."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        """The name of the field."""
