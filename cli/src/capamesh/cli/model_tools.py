"""The work of the commands of `capamesh model`. IO: reads and writes model files, runs models, prints."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import typer
from rich.text import Text

from capamesh.cli.printing import (
    amount,
    count_text,
    hint,
    print_fields,
    print_json,
    print_table,
    require_suffix,
    write_file,
)
from capamesh.cli.progress import steps
from capamesh.node.devices.host import read_cpu
from capamesh.node.runtime.onnxruntime.backend import DeviceKind, OnnxBackend
from capamesh.node.scheduling.service_profile import next_rows
from capamesh.node.tools.optimise.chart import profile_svg
from capamesh.node.tools.optimise.checking import check, refusal
from capamesh.node.tools.optimise.conversions import Conversion
from capamesh.node.tools.optimise.finding import find_models, one_model
from capamesh.node.tools.optimise.loading import opened
from capamesh.node.tools.optimise.optimising import STEPS, Order, optimise
from capamesh.node.tools.optimise.report import SLOWER
from capamesh.node.tools.optimise.structure import Structure, read_structure
from capamesh.node.tools.optimise.timing import time_model
from capamesh.node.tools.optimise.trial import trial_inputs
from capamesh.protocol.tensors import MAX_DIM

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource
    from capamesh.node.repository.rules import PipelineStep
    from capamesh.node.scheduling.service_profile import ServiceProfile
    from capamesh.node.tools.optimise.report import Report, Side

_GOOD: Final = "good"
_BEST: Final = "best"


def inspect_models(path: Path, *, as_json: bool) -> None:
    """Print what the models at `path` are; exit with 1 where a node would refuse one."""
    found = find_models(path)
    entries = [
        (source, None if source.is_pipeline else read_structure(source.path))
        for source in found.models
    ]
    if as_json:
        print_json(
            [_json_of(source, structure) for source, structure in entries]
            + [asdict(refused) for refused in found.refused]
        )
    else:
        for index, (source, structure) in enumerate(entries):
            if index:
                print()
            print_fields(_fields_of(source, structure))
    for refused in found.refused:
        version = f"/{refused.version}" if refused.version else ""
        hint(f"A node refuses {refused.name}{version}: {refused.reason}")
    if found.refused:
        raise typer.Exit(1)


def check_models(
    path: Path, inputs: Path | None, device: str, threads: int, *, as_json: bool
) -> None:
    """Print what a node would say to the models at `path`; exit with 1 where it would refuse one."""
    backend = _backend(device, threads)
    found = find_models(path, backend.compute_capability())
    if inputs is not None and len(found.models) > 1:
        raise typer.BadParameter(
            f"fits one model, {path} has {len(found.models)}; name one of them",
            param_hint="--inputs",
        )
    verdicts = [refusal(refused) for refused in found.refused]
    with steps(len(found.models)) as begin:
        for source in found.models:
            begin(f"{source.name}/{source.version}")
            verdicts.append(check(source, backend, inputs, clock_s=time.perf_counter))
    verdicts.sort(key=lambda verdict: (verdict.name, verdict.version))
    bad = [verdict for verdict in verdicts if not verdict.is_good]
    if as_json:
        print_json([{**asdict(v), "is_good": v.is_good} for v in verdicts])
    else:
        print_table(
            ("MODEL", "VERSION", "VERDICT", "PROVIDER", "RUN WITH"),
            [
                (
                    v.name,
                    v.version or "-",
                    Text(_GOOD, "green") if v.is_good else Text(v.reason, "red"),
                    v.provider or "-",
                    v.inputs or "-",
                )
                for v in verdicts
            ],
        )
    for verdict in verdicts:
        for note in verdict.notes:
            hint(f"Note on {verdict.name}/{verdict.version}: {note}")
    if bad:
        hint(f"Not good: {len(bad)} of {len(verdicts)}.")
        raise typer.Exit(1)


def profile_model(
    path: Path,
    max_rows: int,
    seconds: float,
    inputs: Path | None,
    device: str,
    threads: int,
    *,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Print how long the model at `path` takes for how many rows; draw it into `plot`."""
    if plot is not None:
        require_suffix(plot, ".svg", "--plot")
    source = one_model(path)
    with opened(source, _backend(device, threads)) as model, steps() as begin:
        provider = model.provider
        trial = trial_inputs(model, inputs)
        timing = time_model(
            model,
            trial,
            max_rows=max_rows,
            budget_s=seconds,
            clock_s=time.perf_counter,
            on_size=lambda rows: begin(f"{rows} rows"),
        )
    profile = timing.profile
    cut = "" if timing.stopped or not trial.is_batched else cut_short(profile, max_rows, seconds)
    if plot is not None:
        write_file(plot, profile_svg(f"{source.name}/{source.version} on {provider}", profile))
    if as_json:
        print_json(
            {
                "model": source.name,
                "version": source.version,
                "digest": source.digest,
                "provider": provider,
                "inputs": trial.origin,
                "is_batched": trial.is_batched,
                "best_rows": profile.best_rows,
                "row_s": profile.row_s,
                "stopped": timing.stopped or cut,
                **profile.to_json(),
            }
        )
        return
    print_table(("ROWS", "MS", "ROWS/S", ""), _profile_rows(profile))
    hint(f"{source.name}/{source.version} on {provider}, inputs: {trial.origin}")
    if not trial.is_batched:
        hint("No input has an open first dimension: a run is counted as one row.")
    if timing.stopped:
        hint(f"It fails beyond that, at {timing.stopped}")
    if cut:
        hint(cut)


def cut_short(profile: ServiceProfile, max_rows: int, seconds: float) -> str:
    """Return which limit ended a measurement at its best batch, before more rows gained nothing; empty: none did."""
    rows = profile.points[-1].rows
    if profile.best_rows != rows or next_rows(profile.points, max_rows=MAX_DIM) is None:
        return ""
    limit = f"--max-rows {max_rows}" if rows >= max_rows else f"--seconds {seconds:g}"
    return (
        f"{limit} ended it at {count_text(rows, 'row')}, before more rows brought no more throughput: "
        "the best may be larger"
    )


def optimize_model(
    path: Path,
    conversion: str,
    out: Path | None,
    inputs: Path | None,
    min_agreement: float,
    seconds: float,
    device: str,
    threads: int,
    *,
    may_replace: bool,
    may_be_slower: bool,
    as_json: bool,
) -> None:
    """Write the converted model, print what it gains and costs. ModelInvalid: it agrees too little, or is slower."""
    source = one_model(path)
    order = Order(
        Conversion(conversion),
        out=out,
        inputs=inputs,
        min_agreement=min_agreement,
        may_replace=may_replace,
        may_be_slower=may_be_slower,
        budget_s=seconds,
    )
    with steps(STEPS) as begin:
        report, folder = optimise(
            source, order, _backend(device, threads), clock_s=time.perf_counter, tell=begin
        )
    if as_json:
        print_json({**report.to_json(), "folder": str(folder)})
        return
    _print_report(report)
    hint(f"Written: {folder}")
    hint(f"Next: capamesh model check {folder}")


def _backend(device: str, threads: int) -> OnnxBackend:
    return OnnxBackend(
        cast("DeviceKind", device), intra_op_threads=threads or read_cpu(Path("/")).cores
    )


def _fields_of(source: ModelSource, structure: Structure | None) -> dict[str, object]:
    return {
        "model": source.name,
        "version": source.version,
        "digest": source.digest,
        "size": amount(source.size_bytes),
        **(_pipeline_fields(source) if structure is None else _structure_fields(structure)),
        "description": source.manifest.description,
    }


def _structure_fields(structure: Structure) -> dict[str, object]:
    weights = sum(structure.weight_bytes.values())
    return {
        "inputs": structure.inputs,
        "outputs": structure.outputs,
        "batches": structure.batching,
        "parameters": f"{structure.parameters:,}",
        "precision": [
            f"{name}  {size / weights:.1%}" if weights else name
            for name, size in structure.weight_bytes.items()
        ],
        "operators": [f"{count:>5}  {name}" for name, count in structure.operators.items()],
        "external data": structure.external_files,
        "opsets": [f"{domain} {version}" for domain, version in structure.opsets.items()],
        "IR version": structure.ir_version,
        "producer": structure.producer,
    }


def _pipeline_fields(source: ModelSource) -> dict[str, object]:
    return {"pipeline of": [f"{step.model} {step.version}".strip() for step in _steps(source)]}


def _json_of(source: ModelSource, structure: Structure | None) -> dict[str, object]:
    return {
        "name": source.name,
        "version": source.version,
        "digest": source.digest,
        "size_bytes": source.size_bytes,
        **(
            {"steps": [{"model": step.model, "version": step.version} for step in _steps(source)]}
            if structure is None
            else {**asdict(structure), "batching": structure.batching}
        ),
    }


def _steps(source: ModelSource) -> tuple[PipelineStep, ...]:
    return source.manifest.rules.steps


def _profile_rows(profile: ServiceProfile) -> list[tuple[object, ...]]:
    return [
        (
            point.rows,
            f"{point.seconds * 1e3:.3f}",
            f"{point.rows / point.seconds:,.0f}",
            Text(_BEST, "green") if point.rows == profile.best_rows else "",
        )
        for point in profile.points
    ]


def _print_report(report: Report) -> None:
    before, after = report.before, report.after
    print_table(
        ("", "BEFORE", "AFTER", "CHANGE"),
        [
            (
                "size",
                amount(before.size_bytes),
                amount(after.size_bytes),
                f"{after.size_bytes / before.size_bytes:.0%}",
            ),
            (
                "1 row",
                f"{before.profile.seconds_at(1) * 1e3:.3f} ms",
                f"{after.profile.seconds_at(1) * 1e3:.3f} ms",
                _speed(report.gain.one_row),
            ),
            (
                "best batch",
                _best(before),
                _best(after),
                _speed(report.gain.best_batch),
            ),
        ],
    )
    print()
    print_table(
        ("OUTPUT", "SAME DECISIONS", "OF", "BY", "LARGEST DIFFERENCE", "MEAN"),
        [
            (
                output.name,
                f"{output.share:.2%}",
                output.decisions,
                output.measure,
                f"{output.largest_difference:.3g}",
                f"{output.mean_difference:.3g}",
            )
            for output in report.outputs
        ],
    )
    rows = count_text(report.rows, "row")
    hint(f"Compared on {rows}, inputs: {report.inputs}; run on {report.provider}")
    for note in report.notes:
        hint(f"Note: {note}")


def _best(side: Side) -> str:
    return f"{side.rows_per_s:,.0f} rows/s at {side.profile.best_rows}"


def _speed(speed: float) -> Text | str:
    text = f"{speed:.2f} x as fast"
    return Text(f"{text}: slower", "red") if speed < SLOWER else text
