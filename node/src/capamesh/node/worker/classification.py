"""The classification of one request's outputs: what it wants is checked before the run, and made of its result. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.protocol.errors import CapameshError, InvalidRequest, RunFailed
from capamesh.protocol.tensors import check_classifiable, classified, has_rows

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
            return [self._of_output(output) for output in result]
        except CapameshError as error:
            return error
        except Exception as exc:  # noqa: BLE001 - a backend's bug must not leave the caller without an answer
            return RunFailed(f"an output could not be classified: {exc!r}")

    def _of_output(self, output: Tensor) -> Tensor:
        found = self._wanted.get(output.name)
        if found is None:
            return output
        spec, most = found
        labels = self._labels.get(output.name, ())
        is_by_rows = has_rows(spec, len(output.shape))
        return classified(output, most, labels, is_by_rows=is_by_rows)
