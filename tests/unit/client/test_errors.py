"""The errors that are imported from the client."""

from __future__ import annotations

import pytest

import capamesh.client
from capamesh.client import errors
from capamesh.protocol.errors import CapameshError, ClientError, PeerError


def kinds_of(kind: type[CapameshError]) -> set[type[CapameshError]]:
    return {kind}.union(*(kinds_of(each) for each in kind.__subclasses__()))


def test_each_error_that_a_router_can_answer_is_exported() -> None:
    told = {
        each.__name__
        for each in kinds_of(ClientError) | kinds_of(PeerError)
        if each.__module__ == CapameshError.__module__
    }
    assert told <= set(errors.__all__)


def test_client_and_its_module_of_errors_export_the_same() -> None:
    assert set(errors.__all__) <= set(capamesh.client.__all__)


@pytest.mark.pure  # a compiled class has no text
def test_all_that_is_exported_is_explained() -> None:
    for name in capamesh.client.__all__:
        each = getattr(capamesh.client, name)
        assert vars(each).get("__doc__") if isinstance(each, type) else True, name
