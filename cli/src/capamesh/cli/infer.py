"""`capamesh infer`: run a model once. Arguments and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, Key, access
from capamesh.cli.help_texts import examples
from capamesh.cli.parsing import names, seconds

if TYPE_CHECKING:
    from capamesh.client import Outputs

EPILOG = examples(
    "capamesh models   shows names, inputs and shapes; -1 is any size",
    "capamesh infer iris --input 'X=[[5.1,3.5,1.4,0.2]]'   dtype and shape are the model's",
    "capamesh infer magika ./report.pdf   a model for files, pictures or texts takes them as they are",
    "capamesh infer minilm --text 'a cat sat' --json   one vector for each text",
    "capamesh infer iris --input X=@rows.npy --output label --json",
    "capamesh infer digits --input X=@rows.npy --top 3   the largest scores, with the names of their classes",
    "capamesh infer iris --input X=@rows.npy --cast   numpy's float64 for a model that takes FP32",
    "capamesh infer iris --input X=@rows.npy --priority 1 --timeout 2s   before all others, or not at all",
    "capamesh infer iris --input X=@rows.npy --region eu --max-price 2 --explain   who may run it, and who did",
    "capamesh infer iris --input X=@rows.npy --router http://10.0.0.5:8000,http://10.0.0.6:8000   if one is down, the other",
    "capamesh infer iris --input X=@rows.npy --router https://gpu.example.com --header 'Authorization: Bearer KEY'   behind a proxy",
    "capamesh infer vad -i input=@a.npy -p sequence_id=7 -p sequence_start=true   a model that remembers",
)


def infer(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="For a model of pictures, texts or file types: what it is asked about.",
        ),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            "-t",
            metavar="TEXT",
            help="For a model of texts: one to ask it about; may be repeated.",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="An input: NAME=JSON (a number, text or nested lists), NAME=@FILE.npy, NAME=@FILE.npz or "
            "NAME=@FILE.json; repeat it for each input.",
        ),
    ] = None,
    version: Annotated[str, typer.Option("--version", help="Which version; any by default.")] = "",
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", metavar="NAME", help="Only this output; may be repeated."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            metavar="COUNT",
            min=1,
            help="Of outputs of scores, only so many of each row, the largest, with the names of their classes; of texts,"
            " pictures and files 3 by default.",
        ),
    ] = None,
    cast: Annotated[
        bool,
        typer.Option(
            "--cast",
            help="Convert arrays in files to the model's dtype; what it cannot hold is refused.",
        ),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="TIME",
            parser=seconds(0.001),
            help="The deadline; the router's by default.",
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME=VALUE",
            help="A parameter of the request: a number, true, false or text; may be repeated.",
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            "--priority",
            metavar="NUMBER",
            min=1,
            max=255,
            help="1 goes first where there is too much to do, 255 last; 128 by default.",
        ),
    ] = None,
    request_id: Annotated[
        str, typer.Option("--id", metavar="TEXT", help="What marks the request in logs.")
    ] = "",
    retries: Annotated[
        int,
        typer.Option(
            "--retries",
            metavar="COUNT",
            min=0,
            max=20,
            help="How often to ask again where nothing has run: refused with a time to come again, which is waited for, or not "
            "reached.",
        ),
    ] = 2,
    idempotency_key: Annotated[
        str,
        typer.Option(
            "--idempotency-key",
            metavar="TEXT",
            help="Of requests with the same one a router runs one alone, and all have its answer.",
        ),
    ] = "",
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="As this tenant's.")] = "",
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            metavar="NAME",
            help=f"How its node is chosen: {', '.join(options.POLICY_NAMES)}; as the model's rules say by default.",
        ),
    ] = "",
    affinity: Annotated[
        str, typer.Option("--affinity", metavar="KEY", help="Where others of this key go.")
    ] = "",
    region: Annotated[
        str,
        typer.Option("--region", metavar="NAME,...", help="Only nodes that say they are there."),
    ] = "",
    device: Annotated[
        str,
        typer.Option("--device", metavar="KIND,...", help="Only these kinds of devices: cpu,cuda."),
    ] = "",
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="PEER", help="Only this node; may be repeated."),
    ] = None,
    max_price: Annotated[
        float | None,
        typer.Option("--max-price", metavar="PRICE", min=0.0, help="No dearer nodes than this."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say among whom and why its node was chosen.")
    ] = False,
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Run MODEL once and print its outputs. In JSON, NaN and infinities are the texts NaN, Infinity, -Infinity."""
    from capamesh.cli.class_table import class_notes, class_rows, classes_json, wanted_classes  # noqa: PLC0415 - the same
    from capamesh.cli.explain import sentence  # noqa: PLC0415 - the same
    from capamesh.cli.fleet_rows import name_and_id  # noqa: PLC0415 - the same
    from capamesh.cli.input_values import parse_inputs  # noqa: PLC0415 - help starts faster
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - the same
    from capamesh.cli.output_values import dtype_name, json_of, preview  # noqa: PLC0415 - the same
    from capamesh.cli.parameter_values import parse_parameters  # noqa: PLC0415 - the same
    from capamesh.cli.printing import hint, print_json, print_table  # noqa: PLC0415 - the same
    from capamesh.cli.task_inputs import task_inputs  # noqa: PLC0415 - the same
    from capamesh.client import RoutingOptions  # noqa: PLC0415 - the same

    wanted = parse_parameters(parameters or ())
    routing = RoutingOptions(
        tenant=tenant,
        policy=policy,
        affinity=affinity,
        regions=names(region),
        devices=names(device),
        nodes=tuple(node or ()),
        max_price=max_price,
        is_explained=explain,
    )
    chosen = outputs or []
    with OperatorClient(
        options.several(router),
        retries=retries,
        **access(header, ca, key, cert=cert, cert_key=cert_key, router=router),
    ) as client:
        metadata = client.metadata(model, version)
        asked = texts or files
        if asked and inputs:
            raise typer.BadParameter("give tensors, or texts and files", param_hint="--input")
        of_task = task_inputs(client.task_of(model), metadata, texts, files) if asked else None
        if of_task is not None:
            tensors = of_task.tensors
            chosen = chosen or of_task.outputs
            top = top or of_task.top(chosen)
        else:
            tensors = parse_inputs(inputs or (), metadata, is_cast=cast)
        classes = wanted_classes(metadata, chosen, top) if top else {}
        if classes and not chosen and of_task is None:
            chosen = [spec.name for spec in metadata.outputs]
        answers = client.infer(
            model,
            tensors,
            version=version,
            outputs=chosen or None,
            classes=classes,
            timeout_s=timeout,
            priority=priority,
            parameters=wanted,
            id=request_id,
            idempotency_key=idempotency_key,
            routing=routing,
        )
        name = "" if as_json or not answers.node else client.name_of(answers.node)
    arrays = {n: a for n, a in answers.items() if n not in answers.classes}
    if as_json:
        reported: dict[str, Any] = {
            "model": model,
            "version": answers.version,
            "node": answers.node,
            "id": answers.id,
            "parameters": answers.parameters,
            "cache": answers.cache,
            "timings": answers.timings._asdict(),
        }
        if of_task is not None:
            reported["rows"] = of_task.rows
        explained = {"explanation": answers.explanation} if explain else {}
        shown = [
            classes_json(n, answers.classes[n]) if n in answers.classes else json_of(n, a)
            for n, a in answers.items()
        ]
        print_json({**reported, "outputs": shown, **explained})
        return
    if arrays:
        print_table(
            ("OUTPUT", "DTYPE", "SHAPE", "VALUES"),
            [(n, dtype_name(a), list(a.shape), preview(a)) for n, a in arrays.items()],
        )
    if arrays and answers.classes:
        print()
    if answers.classes:
        print_table(
            ("OUTPUT", "ROW", "LABEL", "SCORE", "CLASS"),
            class_rows(answers.classes, of_task.titles if of_task is not None else ()),
        )
        for note in class_notes(answers.classes):
            hint(note)
    by = name_and_id(answers.node, name)
    hint(_origin(answers, by))
    if answers.explanation is not None:
        hint(sentence(answers.explanation, {answers.node: by} if name else None))


def _origin(answers: Outputs, by: str) -> str:
    """Return where an answer came from, and how; `by` is what its node is called."""
    attempts = answers.timings.attempts
    again = f"; sent {attempts} times" if attempts > 1 else ""
    kept = f"; {answers.cache}, of {answers.age_s:.0f} s ago" if answers.cache else ""
    by = by or "a node that the router did not name"
    return f"by {by}, version {answers.version}{again}{kept}"
