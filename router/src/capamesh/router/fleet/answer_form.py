"""The form that an answer of one replica must have, by what that replica advertises. Pure.

A replica's advert says which outputs it gives, of which datatype and shape; a caller relies on that. An answer of another
form breaks the node's own word, and is not passed on.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.tasks import OUTPUTS
from capamesh.protocol.tensor_spec import ANY_DIM, TensorSpec
from capamesh.protocol.tensors import Datatype, has_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.adverts import ModelOffer
    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.tensors import Tensor

MAX_KNOWN = 64
"""Forms of answers that are remembered for each replica's model (guess: the usual batch sizes)."""
MAX_KNOWN_OUTPUTS = 16
"""Answers with more outputs are looked at anew each time (guess)."""
_FORM = attrgetter("name", "datatype", "shape")
"""Returns the name, datatype and shape of a tensor."""
SHOWN = 8
"""A message names at most this many outputs (guess: enough to find the mistake)."""


class AnswerForm:
    """The form of the answers that one offer promises, worked out once for each offer."""

    __slots__ = ("_by_name", "_known", "_specs", "offer")

    def __init__(self, offer: ModelOffer) -> None:
        self.offer = offer
        self._specs = offer.outputs
        self._by_name = {spec.name: spec for spec in (*offer.outputs, *OUTPUTS[offer.task])}
        self._known: set[tuple[object, ...]] = set()
        """The outputs that were asked for, and names, datatypes and shapes of answers that were found to fit."""

    @override
    def __repr__(self) -> str:
        return f"AnswerForm({self.offer.name!r} {self.offer.version}, {len(self._specs)} outputs)"

    def lacks(self, wanted: Sequence[str]) -> str:
        """Return the first of the outputs `wanted` that the offer does not have; "" when it has all."""
        for name in wanted:
            if name not in self._by_name:
                return name or "''"
        return ""

    def names(self) -> str:
        """Return the names of the offer's outputs, for people."""
        more = ", …" if len(self._specs) > SHOWN else ""
        return ", ".join(repr(spec.name[:80]) for spec in self._specs[:SHOWN]) + more

    def misfit(
        self, answer: InferAnswer, wanted: tuple[str, ...], classes: tuple[int, ...] = ()
    ) -> str:
        """Return how an answer to a call for the outputs `wanted`, all when that is empty, breaks the offer.

        "" when it does not: it is of the offer's version and has each output once, of its datatype and shape. An output of
        which `classes` are wanted may also be as many texts a row.
        """
        if answer.version != self.offer.version:
            return f"it is of version {answer.version[:24]!r}"
        outputs = answer.outputs
        if classes:
            return _misfit(self._classified(wanted, classes, outputs), outputs)
        form = (wanted, *map(_FORM, outputs))
        if form in self._known:
            return ""
        specs = self._specs
        if wanted:
            specs = tuple([self._by_name[name] for name in wanted if name in self._by_name])
        misfit = _misfit(specs, outputs)
        if not misfit and len(outputs) <= MAX_KNOWN_OUTPUTS:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known.add(form)
        return misfit

    def _classified(
        self, wanted: tuple[str, ...], classes: tuple[int, ...], outputs: Sequence[Tensor]
    ) -> list[TensorSpec]:
        """Return what the outputs are to be where they come as classes, which a node of an older version does not give."""
        given = {output.name: output for output in outputs}
        specs: list[TensorSpec] = []
        for name, most in zip(wanted, classes, strict=True):
            spec, output = self._by_name.get(name), given.get(name)
            if spec is None:
                continue
            if most and output is not None and output.datatype is Datatype.BYTES:
                texts = min(most, output.shape[-1]) if output.shape else most
                rows = (ANY_DIM,) if has_rows(spec, len(output.shape)) else ()
                spec = TensorSpec(name, Datatype.BYTES, (*rows, texts))
            specs.append(spec)
        return specs


def _misfit(specs: Sequence[TensorSpec], outputs: Sequence[Tensor]) -> str:
    """Return how outputs, in whatever order, differ from `specs`."""
    if len(outputs) != len(specs):
        return f"it has {len(outputs)} outputs of {len(specs)}"
    by_name = {output.name: output for output in outputs}
    for spec in specs:
        output = by_name.get(spec.name)
        if output is None:
            return f"it has no output {spec.name[:80]!r}"
        if output.datatype is not spec.datatype or not _fits(spec.shape, output.shape):
            return (
                f"output {spec.name[:80]!r} is {output.datatype}{list(output.shape[:SHOWN])}, not"
                f" {spec.datatype}{list(spec.shape[:SHOWN])}"
            )
    return ""


def _fits(declared: tuple[int, ...], given: tuple[int, ...]) -> bool:
    """Return whether a shape is one that was declared.

    A model that declares no dimensions has a scalar or does not know. A first dimension of one is not held against
    an answer: models that were exported with a batch of one answer larger batches all the same, and ONNX Runtime
    lets them.
    """
    if not declared or declared == given:
        return True
    if len(declared) != len(given):
        return False
    first = True
    for dim, size in zip(declared, given, strict=True):
        if dim not in {ANY_DIM, size} and not (first and dim == 1):
            return False
        first = False
    return True
