"""Classify a table of Spark by a network: `mapInPandas` gives each task its rows, a batch at a time.

    spark.read.parquet("rows.parquet").mapInPandas(
        classifier("digits", {"X": "pixels"}), schema="name string, label long"
    ).write.parquet("labels")

Where the table is all that there is to do, write it as Parquet and have the router run it: `client.jobs.submit("s3://...")`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from capamesh.client import Client

RETRIES = 20
"""The most times that a batch is sent again which the network had no room for; it says after how long."""


def classifier(
    model: str,
    columns: Mapping[str, str],
    *,
    id_column: str = "name",
    output: str = "label",
    router: str = "http://127.0.0.1:8000",
    key: str | None = None,
) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Return what Spark calls with the tables of a task: it yields tables of `id_column` and of the model's `output`."""

    def classify(frames: Iterable[Any]) -> Iterator[Any]:
        # made in the task: a client cannot be sent to another process
        with Client(router, key=key, retries=RETRIES) as client:
            for frame in frames:
                inputs = {
                    name: np.stack([np.asarray(row) for row in frame[column]])
                    for name, column in columns.items()
                }
                outputs = client.infer(model, inputs, cast=True, outputs=[output], priority=255)
                yield frame[[id_column]].assign(**{output: list(outputs[output])})

    return classify
