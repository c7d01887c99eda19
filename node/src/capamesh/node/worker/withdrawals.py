"""Has routers told the load of models that have less to do than they may believe, for requests were withdrawn. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from typing_extensions import override

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import TELL_S

Later: TypeAlias = Callable[[float, Callable[[], None]], object]
"""Calls a function after so many seconds."""


class Withdrawals:
    """The models of which requests were withdrawn since routers were told their load."""

    def __init__(self, later: Later, tell: Callable[[ModelName, ModelVersion], bool]) -> None:
        """`tell` tells all routers the load of a model; it returns False where that cannot be told yet."""
        self._later = later
        self._tell = tell
        self._models: dict[tuple[ModelName, ModelVersion], None] = {}

    @override
    def __repr__(self) -> str:
        return f"Withdrawals({len(self._models)} models)"

    def add(self, model: ModelName, version: ModelVersion) -> None:
        """A request was withdrawn."""
        if not self._models:
            self._later(TELL_S, self._due)
        self._models[model, version] = None

    def _due(self) -> None:
        self._models = {key: None for key in self._models if not self._tell(*key)}
        if self._models:
            self._later(TELL_S, self._due)
