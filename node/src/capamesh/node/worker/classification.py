"""The classification of one request's outputs: what it wants is checked before the run, and made of its result. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from capamesh.protocol.errors import CapameshError, InvalidRequest, RunFailed, TooLarge
from capamesh.protocol.tensors import MAX_CLASSES, check_classifiable, classified, has_rows
from capamesh.protocol.tensors.classification import MAX_SCORES

if TYPE_CHECKING:
    from capamesh.node.models.preparation import LoadResult
    from capamesh.node.scheduling import Result
    from capamesh.protocol.links.calls import InferCall
    from capamesh.protocol.tensors import Tensor


class Classification:
    """The outputs of one call of which the largest scores are wanted, and the model's labels for them."""

    def __init__(self, call: InferCall, prepared: LoadResult) -> None:
        """Raise `InvalidRequest` where an output has no scores, or where the answer is to come in parts."""
        if call.takes_parts:
            raise InvalidRequest("an answer in parts is not classified: ask for it as it is")
        specs = {spec.name: spec for spec in prepared.plan.public_outputs}
        self._labels = prepared.labels
        self._wanted = {
            name: (specs[name], most)
            for name, most in zip(call.outputs, call.classes, strict=True)
            if most and name in specs
        }
        for spec, _ in self._wanted.values():
            check_classifiable(spec.name, spec.datatype)

    def of(self, result: Result) -> Result:
        """Return a result with texts in the place of the outputs that are to be classified, or the error that this ends in."""
        if isinstance(result, CapameshError):
            return result
        try:
            return self._of_outputs(result)
        except TooLarge as error:
            return error
        except Exception as exc:  # noqa: BLE001 - a backend's bug: no caller's fault, and none goes without an answer
            return RunFailed(f"an output could not be classified: {exc!r}")

    def _of_outputs(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs, whatever their shapes, with BYTES for those to classify; all together are bounded as one is."""
        sizes = [math.prod(output.shape) for output in outputs if output.name in self._wanted]
        if sum(sizes) > MAX_SCORES:
            raise TooLarge(
                f"the outputs to classify have {sum(sizes)} scores; at most {MAX_SCORES} of a request are classified:"
                " ask for it without classification, or for fewer outputs or rows"
            )
        found: list[Tensor] = []
        texts = 0
        for output in outputs:
            found.append(self._of_output(output))
            if output.name in self._wanted:
                texts += math.prod(found[-1].shape)
            if texts > MAX_CLASSES:
                raise TooLarge(
                    f"the answer would have more than {MAX_CLASSES} classes: ask for fewer of each row, or for fewer"
                    " outputs or rows"
                )
        return found

    def _of_output(self, output: Tensor) -> Tensor:
        found = self._wanted.get(output.name)
        if found is None:
            return output
        spec, most = found
        labels = self._labels.get(output.name, ())
        is_by_rows = has_rows(spec, len(output.shape))
        return classified(output, most, labels, is_by_rows=is_by_rows)
