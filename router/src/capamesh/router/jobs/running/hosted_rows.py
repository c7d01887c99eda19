"""The rows of a hosted model: how many go into a call, what the results of one take, and whether it has rows at all. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from capamesh.protocol.tensor_spec import ANY_DIM
from capamesh.protocol.tensors.classification import MAX_CLASSES, MAX_SCORES
from capamesh.router.jobs.spec import InputFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from capamesh.protocol.tensor_spec import TensorSpec
    from capamesh.router.jobs.running.nodes import Hosting
    from capamesh.router.jobs.spec import InputSpec

UNKNOWN_ROWS: Final = 32
"""The rows of a call of a model whose best batch is not known (guess)."""
CALL_BYTES: Final = 4 * 2**20
"""The most bytes of the rows of a call of several best batches, in and out each (guess: a link takes some milliseconds for it)."""
CALL_S: Final = 0.01
"""The most seconds that they run for (guess: twenty times what a call costs besides)."""
MOST_CALL_ROWS: Final = 2**16
"""The most rows of a call of several best batches: if one ends a worker, they are sent again batch by batch."""


def batch_rows(hosting: Hosting) -> int:
    """Return the rows of one call: the best batch, as far as a call may have so many."""
    if all(spec.shape[:1] == (1,) for spec in hosting.inputs.values()):
        return 1
    rows = hosting.best_rows or UNKNOWN_ROWS
    return min(rows, hosting.max_rows) if hosting.max_rows else rows


def call_rows(hosting: Hosting, row_s: float) -> int:
    """Return the most rows of one call, of which a row runs for `row_s` seconds: more than the best batch where rows are tiny.

    Then a call costs more than the run of its rows. A node runs it in best batches, and between them what people wait for.
    """
    best = batch_rows(hosting)
    in_bytes, out_bytes = _row_bytes(hosting.inputs.values()), out_row_bytes(hosting)
    if best <= 1 or row_s <= 0 or not in_bytes or not out_bytes:  # a row may be anything but tiny
        return best
    most = min(
        CALL_BYTES // max(in_bytes, out_bytes),
        int(CALL_S / row_s),
        hosting.max_rows or MOST_CALL_ROWS,
    )
    return max(1, min(most, MOST_CALL_ROWS) // best) * best


def out_row_bytes(hosting: Hosting) -> int:
    """Return the bytes of a row's results; 0: nobody declares them."""
    return _row_bytes(hosting.outputs)


def _row_bytes(specs: Iterable[TensorSpec]) -> int:
    """Return the bytes of a row of these tensors; 0: nobody declares them."""
    total = 0
    for spec in specs:
        item_bytes = spec.datatype.itemsize_bytes
        if item_bytes is None or ANY_DIM in spec.shape[1:]:
            return 0
        total += item_bytes * math.prod(spec.shape[1:])
    return total


def classified_rows(hosting: Hosting, classes: Mapping[str, int]) -> int:
    """Return the most rows of a call of which a node classifies outputs."""
    scores = texts = 0
    for spec in hosting.outputs:
        if spec.name in classes:
            width = math.prod(
                abs(dim) for dim in spec.shape[1:]
            )  # of one that is open a row may have more
            scores += width
            texts += classes[spec.name]
    if not texts:
        return MAX_SCORES
    return max(1, min(MAX_SCORES // max(1, scores), MAX_CLASSES // texts))


def unfit(hosting: Hosting, spec: InputSpec) -> str:
    """Return why a job cannot run its input with a model, for a person; "": it can."""
    if hosting.refusal:
        return hosting.refusal
    if spec.format is InputFormat.BATCH:  # its endpoint knows what the model takes
        return ""
    for each in (*hosting.inputs.values(), *hosting.outputs):
        if each.shape[:1] not in {(ANY_DIM,), (1,)}:
            return (
                f"{each.name!r} of the model has the shape {list(each.shape)}, whose first axis counts no rows: jobs need one"
                " that is -1 or 1"
            )
    if len({each.shape[0] for each in hosting.inputs.values()}) > 1:
        return "the first axis of some inputs of the model is 1, and of others -1: jobs need one of them for all"
    given, taken = set(spec.columns), set(hosting.inputs)
    is_of_task = len(given) == 1 and given <= set(hosting.task_inputs)
    if given != taken and not is_of_task:
        return f"the job fills the inputs {_shown(given)}, and the model takes {_shown(taken)}; name a column for each of them"
    return ""


def _shown(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names)))[:200] or "none"
