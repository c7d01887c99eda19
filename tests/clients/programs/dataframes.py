"""What becomes of tables of pandas, Polars and pyarrow that the SDK is given: `URL ROOT PACKAGES`. Prints JSON."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any


def main(url: str, root: str, packages: str) -> None:
    """Submit the same table in each form, then run the example for pandas."""
    # ruff: noqa: PLC0415 - the SDK's sources lie in two folders, which are named first
    sys.path[:0] = [f"{root}/client/src", f"{root}/protocol/src"]
    sys.path.append(packages)  # what the SDK needs, where it is not here
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from capamesh.client import Client

    columns: dict[str, Any] = {"name": ["a", "b", None], "x": [1.5, 2.5, 3.5], "n": [1, 2, 3]}
    tables = [pd.DataFrame(columns), pl.DataFrame(columns), pa.table(columns)]
    with Client(url) as client:
        jobs = [client.jobs.submit(table, model="digits", id_column="name").id for table in tables]
        label = client.jobs.get("job-done").results_table().to_pandas()["label"]
    sys.stdout.write("--\n")
    runpy.run_path(str(Path(root) / "examples" / "pandas_frame.py"))
    sys.stdout.write(json.dumps({"jobs": jobs, "labels": label.tolist()}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
