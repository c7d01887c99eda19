"""Tables of pandas, Polars and pyarrow, as these libraries have them, and the example for pandas, at a router that is made up."""

from __future__ import annotations

import io
import json
from sysconfig import get_path

import pytest
from foreign_clients import ROOT, run
from job_server import running_job_server

parquet = pytest.importorskip("pyarrow.parquet")


def test_tables_are_submitted_as_parquet(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_job_server() as router:
        monkeypatch.setenv("CAPAMESH_ROUTER", router.url)
        done = router.add(10)
        router.complete(done)
        done.id = "job-done"
        router.jobs = {done.id: done}

        def complete(line: str) -> None:
            # what is submitted is done when it is looked at
            for job in router.jobs.values():
                if line.startswith("GET"):
                    router.complete(job)

        router.on_ask = complete
        program = ROOT / "tests/clients/programs/dataframes.py"
        said = run("dataframes", "python", program, router.url, str(ROOT), get_path("purelib"))
        before, _, after = said.partition("--\n")
        *example, told = after.splitlines()
        assert before == ""
        assert json.loads(told)["labels"] == list(range(10))
        assert len(json.loads(told)["jobs"]) == 3
        tables = [parquet.read_table(io.BytesIO(router.files[f"file-{n}"])) for n in (1, 2, 3)]
        for table in tables:
            assert table.column_names == ["name", "x", "n"]
            assert table.to_pylist() == [
                {"name": "a", "x": 1.5, "n": 1},
                {"name": "b", "x": 2.5, "n": 2},
                {"name": None, "x": 3.5, "n": 3},
            ]
        assert example[0] == "job job-5 is completed"
        assert len(example) == 22
        sent = parquet.read_table(io.BytesIO(router.files["file-4"]))
        assert (sent.num_rows, sent.num_columns) == (20, 65)
        body = router.bodies[-1]
        assert body["input"]["columns"]["X"][:2] == ["p0", "p1"]
        assert body["input"]["id_column"] == "name"
