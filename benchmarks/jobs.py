"""Measures what part of the raw best-batch rate a job reaches, and how much longer online requests wait beside it. Starts processes.

    python benchmarks/jobs.py [--rounds 3] [--models tiny,encoder] [--rows 4000000,5000] [--text-rows 100000]
        [--forms npz,parquet,csv,jsonl] [--beside encoder] [--estimates 10,60,300] [--keep]

One router and one node, all defaults but the node's threads. In each round run, one after the other: ONNX Runtime alone in a loop over
the rows, in a process with the node's threads and at the node's best batch; a job over the same rows in each form of input, from its
submission to its end; a loop of 64 requests of one row that are always under way, with the SDK; and Ray Data's `map_batches` with an actor of ONNX
Runtime, from its first batch to its last, where Ray can be had (it goes into an environment of its own). Then requests come at half of
what the cluster answers, in turns with a job beside them and without. `--estimates` submits jobs of so many seconds of that model, each after its dry run, and
tells how far both promises of the end were from it. `--keep` writes the figures and the page of them; data sets, and
requests beside a job, of which a run measures nothing stay as they were kept, with the time when that was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import page_tables
from machine import RESULTS, keep
from report import Report
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import job_beside as beside  # noqa: E402 - found by the path set above, as all of these
import job_contestants as contestants  # noqa: E402
from environments import NotInstalled, versions_of  # noqa: E402
from job_cluster import JobCluster  # noqa: E402
from job_contestants import Case, Ran  # noqa: E402
from job_http import ENDED, JobHttp  # noqa: E402

from capamesh.client import AsyncClient  # noqa: E402

THREADS = 2
LEAST_RAW = {"tiny": 0.9, "encoder": 0.95}
LEAST_LOOP = 5.0
LEAST_RAY = 1.0
MOST_P99 = 1.3
LEAST_OF_LEFT = 0.8
MOST_REFUSED = 0.01
MOST_OFF = 1.5
"""The times by which a promised end may be off, either way."""
LOOK_S = 0.25
RAW, JOB, LOOP, RAY = "raw", "job", "loop", "ray"
TEXTS = frozenset({"csv", "jsonl"})
MADE_BY = "python benchmarks/jobs.py --keep"
MADE_BESIDE = f"{MADE_BY}, beside requests"
MADE_FORMS = f"{MADE_BY}, forms of input"
PAGE = "jobs.md"


def _of(form: str) -> str:
    """Return the name of the job whose input has a form."""
    return JOB if form == contestants.NPZ else f"{JOB} {form}"


async def best_rows(url: str, model: str) -> int:
    """Return the node's best batch of a model."""
    async with AsyncClient(url) as client:
        (node,) = await client.nodes()
    (offer,) = [each for each in node["models"] if each["name"] == model]
    return int(offer["best_rows"])


async def alone(
    case: Case,
    cluster: JobCluster,
    http: JobHttp,
    python: str,
    options: argparse.Namespace,
    console: Console,
) -> dict[str, Any]:
    """Let all contestants run in turns and return their figures."""
    batch = await best_rows(cluster.http_url, case.model)
    for form in options.forms.split(","):  # what is loaded late is loaded
        await contestants.job(case, cluster, http, min(case.count, 4 * batch), form)

    def form_rows(form: str) -> int:
        is_text = form in TEXTS and case.count > options.text_rows
        return options.text_rows if is_text else 0

    seen: dict[str, list[Ran]] = {}
    for number in range(options.rounds):
        turns = {
            RAW: lambda: contestants.raw(case, THREADS, batch, options.seconds),
            **{
                _of(form): partial(contestants.job, case, cluster, http, form_rows(form), form)
                for form in options.forms.split(",")
            },
            LOOP: lambda: contestants.loop(case, cluster.http_url, options.seconds),
        }
        if python:
            turns[RAY] = lambda: contestants.ray(case, python, THREADS, batch)
        for name, run in turns.items():
            ran = await run()
            seen.setdefault(name, []).append(ran)
            console.print(
                f"{case.name} {number + 1}: {name} {ran.per_second:,.0f} rows/s", highlight=False
            )
    per_second = {name: [each.per_second for each in ran] for name, ran in seen.items()}
    of_job = per_second[JOB]
    jobs = [name for name in seen if name.startswith(JOB)]
    return {
        "rows": case.count,
        "best_rows": batch,
        "per_second": {name: statistics.median(each) for name, each in per_second.items()},
        # a pair is of one round, so that a slow minute of the machine is in both
        "job_over": {
            name: statistics.median(mine / other for mine, other in zip(of_job, each, strict=True))
            for name, each in per_second.items()
            if name not in jobs
        },
        "forms": {
            name.removeprefix(JOB).strip() or contestants.NPZ: {
                "rows": seen[name][0].rows,
                "of_raw": statistics.median(
                    mine / raw for mine, raw in zip(per_second[name], per_second[RAW], strict=True)
                ),
            }
            for name in jobs
        },
        "cpu_us_a_row": {
            name: statistics.median(1e6 * each.cpu_s / each.rows for each in seen[name])
            for name in (RAW, *jobs)
        },
        "rounds": {name: [round(each, 1) for each in some] for name, some in per_second.items()},
    }


async def beside_requests(
    case: Case, cluster: JobCluster, http: JobHttp, alone_per_s: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Let requests come beside a job and without, and return the figures."""
    most = await beside.capacity(case, cluster.http_url, options.seconds)
    rows = min(case.count, max(64, int(alone_per_s * (1 - options.load) * options.turn_seconds)))
    case.spec(rows)  # its file: to write it meanwhile would have requests wait in this process
    turns = [
        await beside.turn(
            case,
            cluster,
            http,
            rate=most * options.load,
            rows=rows,
            seconds=options.turn_seconds,
            seed=contestants.SEED + 2 * number,
        )
        for number in range(options.rounds)
    ]
    found = beside.figures(turns, alone_per_s, options.load)
    return {"model": case.name, "requests_per_second": most, "rows": rows, **found}


async def estimate(case: Case, http: JobHttp, per_s: float, seconds: float) -> dict[str, float]:
    """Let a job of so many seconds run after its dry run, and return how far off both promises of its end were.

    Those of the job are taken from a tenth of its rows on; one that is not told then is infinitely far off.
    """
    rows = max(64, int(per_s * seconds))
    data = {name: np.resize(array, (rows, *array.shape[1:])) for name, array in case.rows.items()}
    spec = replace(case, name=f"{case.name}-{seconds:g}s", rows=data).spec()
    promised_s = (await http.submit({**spec, "dry_run": True}))["left_s"]
    job = await http.submit({**spec, "client_key": f"{seconds} s at {time.time()}"})
    began_s, told = job["created_at"], list[float | None]()
    while job["state"] not in ENDED:
        await asyncio.sleep(LOOK_S)
        job = await http.job(job["id"])
        if rows / 10 <= job["done"]["rows"] < rows:
            told.append(job["ends_at"])
    took_s = job["ended_at"] - began_s

    def off(seconds: float | None) -> float:
        return max(seconds / took_s, took_s / seconds) if seconds else float("inf")

    worst = max((off(None if at is None else at - began_s) for at in told), default=float("inf"))
    return {
        "seconds": took_s,
        "dry_run_off": off(promised_s),
        "ends_at_off": worst,
        "looks": len(told),
    }


async def measure(options: argparse.Namespace, python: str, console: Console) -> dict[str, Any]:
    """Return all figures."""
    names = options.models.split(",")
    counts = dict(zip(names, map(int, options.rows.split(",")), strict=True))
    found: dict[str, Any] = {"cases": {}}
    with tempfile.TemporaryDirectory(prefix="capamesh-jobs-") as top:
        folder = Path(top)
        data = folder / "data"
        data.mkdir()
        contestants.write_models(
            folder / "models", {"mlp" if n == "tiny" else "encoder" for n in names}
        )
        cases = contestants.cases(folder / "models", data, counts)
        async with (
            JobCluster(
                folder / "cluster",
                folder / "models",
                places=[data],
                routers=((),),
                nodes=1,
                node_options=("--threads", str(THREADS), "--poll", "0"),
            ) as cluster,
            JobHttp(lambda: [cluster.http_url], cluster.headers) as http,
        ):
            await cluster.wait_routable(1, models=[case.model for case in cases])
            for case in cases:
                of_case = await alone(case, cluster, http, python, options, console)
                found["cases"][case.name] = of_case
            for case in cases:
                if case.name == options.beside:
                    rate = found["cases"][case.name]["per_second"][JOB]
                    found["beside"] = await beside_requests(case, cluster, http, rate, options)
                    found["estimates"] = [
                        await estimate(case, http, rate, float(seconds))
                        for seconds in options.estimates.split(",")
                        if seconds
                    ]
    return found


def with_kept(found: dict[str, Any]) -> dict[str, Any]:
    """Return figures with those that were kept before of what was not measured now, which have the time of that.

    Of a data set that was kept with Ray Data, and measured now without, only forms are taken that were not kept.
    """
    file = RESULTS / "jobs.json"
    if not file.is_file():
        return found
    kept: dict[str, Any] = json.loads(file.read_text())
    at = {"measured_at": kept["machine"]["measured_at"]}
    cases: dict[str, Any] = {}
    for name, before in kept["cases"].items():
        now = found["cases"].get(name)
        if now is None or (RAY in before["per_second"] and RAY not in now["per_second"]):
            cases[name] = {**at, **before}
            for word in ("forms", "cpu_us_a_row", "rounds") if now is not None else ():
                cases[name][word] = {**now[word], **before[word]}
    versions = found["versions"] or kept["versions"]
    whole = {**found, "cases": {**found["cases"], **cases}, "versions": versions}
    if "beside" in kept and "beside" not in found:
        whole["beside"] = {**at, **kept["beside"]}
    return whole


def judged(found: dict[str, Any]) -> Report:
    """Return the figures beside what is asked of them."""
    report = Report()
    for name, of_case in found["cases"].items():
        over = of_case["job_over"]
        report.bar(name, "of ONNX Runtime alone", over[RAW], LEAST_RAW[name], is_least=True)
        if name == "tiny":
            report.bar(name, "times a loop of requests", over[LOOP], LEAST_LOOP, is_least=True)
        if RAY in over:
            report.bar(name, "times Ray Data", over[RAY], LEAST_RAY, is_least=True)
    if "beside" in found:
        seen = found["beside"]
        report.bar("beside", "p99 of requests, of that without a job", seen["p99_ratio"], MOST_P99)
        report.bar(
            "beside", "rows of what is idle", seen["job_of_idle"], LEAST_OF_LEFT, is_least=True
        )
        report.bar("beside", "calls refused, of all", seen["refused_part"], MOST_REFUSED)
        report.bar("beside", "requests failed", seen["failed_requests"], 0)
    for each in found.get("estimates", ()):
        name = f"a job of {each['seconds']:.0f} s"
        report.bar(name, "times that the dry run was off", each["dry_run_off"], MOST_OFF)
        report.bar(name, "times that its end was off at worst", each["ends_at_off"], MOST_OFF)
    return report


def table(found: dict[str, Any]) -> str:
    """Return the table of those who run alone."""
    lines = [
        "| data set | ONNX Runtime alone | a job | of it | 64 requests under way | the job's times | Ray Data | the job's times |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, of_case in found["cases"].items():
        rate, over = of_case["per_second"], of_case["job_over"]
        ray = [f"{rate[RAY]:,.0f}", f"{over[RAY]:.2f}"] if RAY in rate else ["-", "-"]
        cells = [
            f"{name}, {of_case['rows']:,} rows",
            f"{rate[RAW]:,.0f}",
            f"{rate[JOB]:,.0f}",
            f"**{over[RAW]:.2f}**",
            f"{rate[LOOP]:,.0f}",
            f"**{over[LOOP]:.1f}**",
            *ray,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def forms_table(found: dict[str, Any]) -> str:
    """Return the table of the forms of input."""
    lines = [
        "| data set | its form | rows | of ONNX Runtime alone | CPU time a row |",
        "|---|---|---:|---:|---:|",
    ]
    for name, of_case in found["cases"].items():
        for form, seen in of_case["forms"].items():
            cpu_us = of_case["cpu_us_a_row"][_of(form)]
            lines.append(
                f"| {name} | {form} | {seen['rows']:,} | {seen['of_raw']:.3f} | {cpu_us:.2f} µs |"
            )
    return "\n".join(lines)


def beside_table(seen: dict[str, Any]) -> str:
    """Return the table of requests beside a job."""
    rows: Sequence[tuple[str, str]] = (
        ("requests a second, half of what is answered", f"{seen['requests_per_second'] / 2:,.1f}"),
        ("p99 without a job", f"{seen['p99_without_ms']:,.1f} ms"),
        ("p99 with a job", f"{seen['p99_with_ms']:,.1f} ms"),
        ("p99 with a job, of that without", f"**{seen['p99_ratio']:.2f}**"),
        ("idle time of the cores, without a job", f"{seen['idle']:.2f}"),
        ("the job's rows, of what it would run in that time", f"**{seen['job_of_idle']:.2f}**"),
        ("of half of what it runs alone", f"{seen['job_of_left']:.2f}"),
        ("the job's calls that nodes refused", f"{100 * seen['refused_part']:.2f} %"),
        ("requests that failed", f"{seen['failed_requests']}"),
    )
    return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> int:
    """Measure, print, keep; fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="tiny,encoder")
    parser.add_argument("--rows", default="4000000,5000", help="of each model's data set")
    parser.add_argument("--text-rows", type=int, default=100_000, help="the most of them as text")
    parser.add_argument("--forms", default="npz,parquet,csv,jsonl", help="of the input; npz first")
    parser.add_argument(
        "--beside", default="encoder", help="the model beside which requests come; empty: none"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        help="of ONNX Runtime alone, and of the loop, in a round",
    )
    parser.add_argument(
        "--turn-seconds", type=float, default=20.0, help="of requests without a job"
    )
    parser.add_argument(
        "--load",
        type=float,
        default=beside.LOAD,
        help="the part of the capacity that requests take: at .05 they wait for nothing without the job",
    )
    parser.add_argument(
        "--estimates", default="", help="seconds of jobs whose promised ends are held against"
    )
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write the figures and the page")
    options = parser.parse_args()
    console = Console()
    python, versions = "", {}
    if not options.no_ray:
        try:
            python = contestants.ray_python()
            versions = {name: versions_of(Path(python))[name] for name in ("ray", "onnxruntime")}
        except NotInstalled as exc:
            console.print(f"Ray Data is left out: {exc}")
    found = asyncio.run(measure(options, python, console))
    report = judged(found)
    report.show("jobs", console)
    if options.keep:
        found = with_kept({"versions": versions, **found})
        figures = {"seed": contestants.SEED, "threads": THREADS, **found}
        console.print(f"kept in {keep('jobs', figures)}")
        page_tables.write(PAGE, MADE_BY, table(found))
        page_tables.write(PAGE, MADE_FORMS, forms_table(found))
        if "beside" in found:
            console.print(
                f"and {page_tables.write(PAGE, MADE_BESIDE, beside_table(found['beside']))}"
            )
    else:
        console.print_json(data=found)
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
