"""The results and the bad rows of one shard until its part is written, within a bound. IO: the part, where `write` is called."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from capamesh.protocol.datatypes import BF16, BYTES
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors.bfloat16 import fp32_from_bf16
from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES
from capamesh.router.jobs.inputs.row_numbers import count_of
from capamesh.router.jobs.outputs.generated import generated_rows
from capamesh.router.jobs.outputs.parts import bad_chunks, part_chunks
from capamesh.router.jobs.outputs.results import Results
from capamesh.router.jobs.outputs.sink import part_name
from capamesh.router.jobs.running.errors import JobFailed, ShardFailed
from capamesh.router.jobs.spec import InputFormat, OutputFormat
from capamesh.router.jobs.values import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.router.jobs.inputs.rows import RowBatch
    from capamesh.router.jobs.outputs.sink import Sink
    from capamesh.router.jobs.spec import JobSpec
    from capamesh.router.jobs.values import BadRow, Lease, Part

RESULT_BYTES: Final = 4 * MAX_SHARD_BYTES
"""The most bytes of a shard's results; only outputs whose size nobody declares can have so many."""


class ShardResults:
    """The results of one shard."""

    def __init__(self, lease: Lease, spec: JobSpec) -> None:
        self._lease = lease
        self._spec = spec
        self._results: list[Results] = []
        self._size_bytes = 0
        self._bad: dict[int, BadRow] = {}
        """The bad rows by number: of a request with several rows, the first that was found."""
        self.sha256 = ""
        """The SHA-256 of the input's bytes, in hexadecimal digits; "" where it is not read as bytes."""
        self.run_s = 0.0
        """Seconds that nodes ran for it."""

    @property
    def size_bytes(self) -> int:
        """Return how many bytes the results have so far, as tensors."""
        return self._size_bytes

    def keep(self, batch: RowBatch, answer: InferAnswer) -> None:
        """Keep the results of rows, of shape [rows, ...] each, as views of what came.

        Raises:
            JobFailed: they are too many.
            ShardFailed: a node of an earlier version knows no classes.
        """
        outputs: dict[str, npt.NDArray[Any]] = {}
        classes = self._spec.output.classes
        for tensor in answer.outputs:
            if tensor.name in classes and tensor.datatype is not BYTES:
                raise ShardFailed(
                    f"a node that ran rows is of a version that does not classify output {tensor.name[:80]!r}: have it updated"
                )
            array = tensor.to_numpy()
            outputs[tensor.name] = fp32_from_bf16(array) if tensor.datatype is BF16 else array
            self._size_bytes += tensor.size_bytes
        self._results.append(Results(batch.numbers, batch.ids, outputs, batch.places, batch.form))
        if self._size_bytes > RESULT_BYTES:
            raise JobFailed(
                f"the results of {self._lease.range.rows} rows have more than {RESULT_BYTES} bytes, the most that a router holds of"
                " a shard; ask for smaller outputs"
            )

    def take_bad(self, bad: Iterable[BadRow]) -> None:
        """Keep bad rows. Raises `JobFailed`: there are more than the job bears."""
        for each in bad:
            self._bad.setdefault(each.row, each)
        most = self._spec.failure.most_bad_rows
        if len(self._bad) > most:
            first = self._bad[min(self._bad)]
            raise JobFailed(
                f"more than {most} bad rows, which is what it bears; the first: row {first.row}: {first.text}"
            )

    def write(self, sink: Sink) -> tuple[Manifest, list[BadRow]]:
        """Write the part, and return its manifest and the bad rows. Blocks.

        Raises:
            ShardFailed: there is not one result or one bad row for each row that was planned.
            JobFailed: the form cannot hold the results.
            OutputFailed: the part cannot be written.
        """
        form = self._spec.output.format
        results = self._good()
        if self._spec.input.format is InputFormat.BATCH and form is not OutputFormat.BATCH:
            results, unread = generated_rows(results)
            self.take_bad(unread)
        bad = [self._bad[row] for row in sorted(self._bad)]
        rows = count_of([each.numbers for each in results])
        planned = self._lease.range.rows
        if rows + len(bad) != planned:
            raise ShardFailed(f"{rows} results and {len(bad)} bad rows came of {planned} rows")
        part: Part | None = None
        bad_part: Part | None = None
        if results:
            try:
                chunks = part_chunks(results, form)
                part = sink.write(part_name(self._lease, form.value), chunks)
            except InvalidRequest as exc:
                raise JobFailed(exc.message) from exc
        if bad:
            name = part_name(self._lease, "jsonl", is_bad=True)
            bad_part = sink.write(name, bad_chunks(bad))
        return Manifest(rows, len(bad), part, bad_part, self.sha256, self.run_s), bad

    def _good(self) -> list[Results]:
        """Return the results without those of requests of which another row is bad: a request has an answer or an error."""
        if not self._bad or all(each.form is None for each in self._results):
            return self._results
        good: list[Results] = []
        for one in self._results:
            kept = [at for at, number in enumerate(one.numbers) if number not in self._bad]
            if len(kept) == len(one.numbers):
                good.append(one)
            elif kept:
                good.append(
                    replace(
                        one,
                        numbers=[one.numbers[at] for at in kept],
                        ids=[one.ids[at] for at in kept],
                        outputs={name: each[np.array(kept)] for name, each in one.outputs.items()},
                        places=[one.places[at] for at in kept],
                    )
                )
        return good
