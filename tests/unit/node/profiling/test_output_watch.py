"""What a node advertises of a model's outputs is what the model gives, whatever it declares."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from capamesh.node.profiling.output_watch import OutputWatch
from capamesh.node.runtime.api import LoadedModel
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec


class Model:
    """Gives what it was made with, one after the other."""

    provider = "fake"

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self.shapes = list(shapes)

    def run(self, *_: object) -> list[Tensor]:
        return [Tensor.from_numpy("y", np.zeros(self.shapes.pop(0), np.float32))]


@pytest.mark.parametrize(
    ("declared", "seen", "reported"),
    [
        ((1, 2), [(4, 2)], (-1, 2)),
        ((-1, 128), [(1, 64), (2, 64)], (-1, -1)),
        ((2,), [(2, 3)], ()),
        ((), [(2, 3)], ()),
    ],
)
def test_declaration_is_widened_by_what_was_seen(
    declared: tuple[int, ...], seen: list[tuple[int, ...]], reported: tuple[int, ...]
) -> None:
    watch = OutputWatch(cast("LoadedModel", Model(*seen)))
    for _ in seen:
        watch.run(())
    specs = (TensorSpec("y", Datatype.FP32, declared), TensorSpec("z", Datatype.FP32, (7,)))
    assert [spec.shape for spec in watch.widened(specs)] == [reported, (7,)]
    assert watch.provider == "fake"
