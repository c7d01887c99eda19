"""The dependencies of models: pipelines and their members. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.node.models.registry import HostedModel
    from capamesh.node.repository import ModelSource
    from capamesh.protocol.ids import ModelName


def members(source: ModelSource) -> set[str]:
    """Return the names of the models that a pipeline is made of; of another model, none."""
    return {step.model for step in source.manifest.rules.steps}


def is_member(name: ModelName, hosted_models: Iterable[HostedModel]) -> bool:
    """Return whether some hosted pipeline is made of the model."""
    return any(name in members(hosted.source) for hosted in hosted_models)


def members_first(sources: Sequence[ModelSource]) -> list[ModelSource]:
    """Return `sources` in an order in which every pipeline comes after what it is made of."""
    ordered: list[ModelSource] = []
    left = list(sources)
    while left:
        names = {source.name for source in left}
        waiting = [source for source in left if members(source) & names]
        if len(waiting) == len(left):  # a circle, which loading them refuses
            return ordered + left
        ordered += [source for source in left if not members(source) & names]
        left = waiting
    return ordered
