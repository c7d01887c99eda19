"""The work of `capamesh model import-llm`. IO: reads and writes model files, runs models, prints."""

from __future__ import annotations

import time
from pathlib import Path

from capamesh.cli.printing import amount, hint, print_json, print_table
from capamesh.cli.progress import stages
from capamesh.node.devices.host import read_cpu
from capamesh.node.tools.llm.importing import STAGES, ImportOrder, import_llm
from capamesh.node.tools.llm.quantising import WeightKind
from capamesh.node.tools.llm.report import ImportReport


def import_model(
    source: Path,
    weights: str | None,
    to: Path,
    name: str,
    threads: int,
    *,
    may_replace: bool,
    is_linked: bool,
    is_compared: bool,
    as_json: bool,
) -> None:
    """Write the model and print what it is, how fast it is, and how near to its source."""
    order = ImportOrder(
        source,
        to,
        None if weights is None else WeightKind(weights),
        name,
        may_replace=may_replace,
        is_linked=is_linked,
        is_compared=is_compared,
        threads=threads or read_cpu(Path("/")).cores,
    )
    with stages(STAGES) as tell:
        report, folder = import_llm(order, clock_s=time.perf_counter, tell=tell)
    if as_json:
        print_json({**report.to_json(), "folder": str(folder)})
        return
    _print_report(report)
    hint(f"Written: {folder}")
    hint(f"Next: capamesh model inspect {folder}")


def _print_report(report: ImportReport) -> None:
    score, comparison = report.score, report.comparison
    print_table(
        ("", "THIS MODEL", "SOURCE IN 32 BITS"),
        [
            ("size", amount(report.size_bytes), f"{amount(report.source_bytes)} as it is"),
            ("loss", f"{score.loss:.4f}", "-" if comparison is None else f"{comparison.loss:.4f}"),
            (
                "same next token",
                "-" if comparison is None else f"{comparison.agreement:.1%}",
                "-" if comparison is None else "100.0%",
            ),
            ("one answer", f"{score.decode_tokens_per_s:,.0f} tokens/s", "-"),
            ("a prompt", f"{score.prompt_tokens_per_s:,.0f} tokens/s", "-"),
        ],
    )
    hint(f"On a text of {score.tokens} tokens, run by {report.runtime} on the CPU")
    for note in report.notes:
        hint(f"Note: {note}")
