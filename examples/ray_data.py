"""Classify a data set of Ray Data by a network: each actor has a client, and the network's nodes do the work.

    ray.data.read_parquet("rows.parquet").map_batches(
        Classify, fn_constructor_args=("digits", {"X": "pixels"}), batch_size=1024, concurrency=4
    ).write_parquet("labels")

Where the data set is all that there is to do, `client.jobs.submit` needs no Ray, and goes on when this process ends.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from capamesh.client import Client, InvalidRequest

RETRIES = 20
"""The most times that a batch is sent again which the network had no room for; it says after how long."""


class Classify:
    """Adds a model's outputs to the columns of a batch; rows that the model does not take get none, and why."""

    def __init__(
        self,
        model: str,
        columns: Mapping[str, str],
        router: str = "http://127.0.0.1:8000",
        key: str | None = None,
    ) -> None:
        """Run `model`, and fill its inputs from `columns`: the column's name by the input's."""
        self._client = Client(router, key=key, retries=RETRIES)
        self._model = model
        self._columns = dict(columns)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the batch with the outputs, each of shape [rows, ...], beside its own columns."""
        try:
            outputs = self._ask(batch)
        except InvalidRequest:  # a row of it is bad: which one?
            return self._one_by_one(batch)
        rows = len(next(iter(batch.values())))
        return {**batch, **outputs, "error": np.array([""] * rows, object)}

    def _ask(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs = {name: np.stack(list(batch[column])) for name, column in self._columns.items()}
        # a batch waits behind whoever waits for an answer
        return dict(self._client.infer(self._model, inputs, cast=True, priority=255))

    def _one_by_one(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        rows = len(next(iter(batch.values())))
        found: list[dict[str, Any]] = []
        errors: list[str] = []
        for at in range(rows):
            try:
                answer = self._ask({name: each[at : at + 1] for name, each in batch.items()})
            except InvalidRequest as error:
                found.append({})
                errors.append(error.message)
            else:
                found.append({name: each[0] for name, each in answer.items()})
                errors.append("")
        names = {name: None for each in found for name in each}
        outputs = {name: [each.get(name) for each in found] for name in names}
        columns = {name: _column(values) for name, values in outputs.items()}
        return {**batch, **columns, "error": np.array(errors, object)}


def _column(values: list[Any]) -> np.ndarray:
    """Return values of any kind as a column of Python's objects, of shape [rows]."""
    column = np.empty(len(values), object)
    column[:] = [None if value is None else np.asarray(value).tolist() for value in values]
    return column
