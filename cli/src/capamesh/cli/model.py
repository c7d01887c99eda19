"""`capamesh model`: look at, check, time and shrink models before they are served. Arguments only."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, access
from capamesh.cli.help_texts import examples, new_group, teach

group = new_group(
    "Prepare models: look at them, check, time and shrink them before a node serves them.",
    examples(
        "capamesh model inspect models/digits",
        "capamesh model check models   the next step: would a node host them?",
        "capamesh model optimize models/digits --int8   a smaller one, if it still decides alike",
        "capamesh model import-llm model.gguf   a language model, from llama.cpp's format",
        "capamesh model sign models --key publisher.key   so that routers serve these files and no others",
    ),
)
group.callback(invoke_without_command=True)(teach)


class Device(StrEnum):
    """A device that runs a model."""

    CPU = "cpu"
    CUDA = "cuda"


ModelPath: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="NAME.onnx, a model's folder, one VERSION folder of it, or a folder of models.",
    ),
]
OneModelPath: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="NAME.onnx, a model's folder (its newest version), or one VERSION folder of it.",
    ),
]
Inputs: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="FILE.npz",
        help="Real inputs: numpy.savez(FILE, NAME=ROWS). Generated ones by default.",
    ),
]
OnDevice: TypeAlias = Annotated[Device, typer.Option("--device", help="What runs it.")]
Threads: TypeAlias = Annotated[
    int, typer.Option("--threads", min=0, help="CPU threads of one run; 0: all cores.")
]
Seconds: TypeAlias = Annotated[
    float,
    typer.Option("--seconds", metavar="S", min=0.01, help="About how long to measure a model."),
]


@group.command(
    epilog=examples(
        "capamesh model inspect models/digits",
        "capamesh model inspect yolo.onnx --json",
        "capamesh model check models/digits   the next step: would a node host it?",
    )
)
def inspect(path: ModelPath, as_json: options.Json = False) -> None:
    """Show what is in a model: inputs, outputs, size, precision, operators. Nothing of it is run."""
    from capamesh.cli.model_tools import inspect_models  # noqa: PLC0415 - help starts faster

    inspect_models(path, as_json=as_json)


@group.command(
    epilog=examples(
        "capamesh models --wide   which files there are",
        "capamesh model trust digits 59026fc2 --rules rules.toml   serve this one and no other",
        "capamesh model trust digits 59026fc2 --version 2 --rules rules.toml --router http://localhost:8001",
    )
)
def trust(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    digest: Annotated[
        str,
        typer.Argument(
            metavar="DIGEST",
            help="The file's digest, or its first digits: `capamesh models --wide`.",
        ),
    ],
    rules: Annotated[
        Path, typer.Option("--rules", metavar="FILE", help="The router's rules file; made if new.")
    ],
    version: Annotated[
        str, typer.Option("--version", metavar="N", help="The model's version.")
    ] = "1",
    router: options.Routers = options.DEFAULT_ROUTER,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
) -> None:
    """Say which of the files that nodes host as a model's version is the right one: routers with these rules ask no others."""
    from capamesh.cli.model_trust import trust_model  # noqa: PLC0415 - help starts faster
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - the same

    with OperatorClient(
        options.several(router), **access(header, ca, cert=cert, cert_key=cert_key, router=router)
    ) as client:
        trust_model(client.owned_models(), model, version, digest, rules)


@group.command(
    epilog=examples(
        "capamesh model check models   every model in the folder",
        "capamesh model check models/digits --inputs rows.npz   runs all rows of the file",
        "capamesh model check models > /dev/null   exit status 0 only when all are good",
        "capamesh model profile models/digits   the next step: how fast is it?",
    )
)
def check(
    path: ModelPath,
    inputs: Inputs = None,
    device: OnDevice = Device.CPU,
    threads: Threads = 0,
    as_json: options.Json = False,
) -> None:
    """Load and run models as a node would; exit status 1 with the reason where a node would refuse one."""
    from capamesh.cli.model_tools import check_models  # noqa: PLC0415 - help starts faster

    check_models(path, inputs, device.value, threads, as_json=as_json)


@group.command(
    epilog=examples(
        "capamesh model profile models/digits",
        "capamesh model profile models/digits --device cuda --max-rows 4096 --plot digits.svg",
        "capamesh model optimize models/digits --int8   the next step: is it faster with 8 bits?",
    )
)
def profile(
    path: OneModelPath,
    max_rows: Annotated[
        int, typer.Option("--max-rows", min=1, metavar="N", help="The largest batch to try.")
    ] = 1024,
    seconds: Seconds = 10.0,
    inputs: Inputs = None,
    device: OnDevice = Device.CPU,
    threads: Threads = 0,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.svg", help="Draw the measurements into FILE too."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Time a model at 1, 2, 4 and so on rows until more rows bring no more throughput."""
    from capamesh.cli.model_tools import profile_model  # noqa: PLC0415 - help starts faster

    profile_model(
        path, max_rows, seconds, inputs, device.value, threads, plot=plot, as_json=as_json
    )


@group.command(
    epilog=examples(
        "capamesh model optimize models/digits --int8   writes models/digits-int8",
        "capamesh model optimize models/digits --int8 --inputs rows.npz --min-agreement 0.995",
        "capamesh model optimize models/digits --fp16 --device cuda --out smaller",
        "capamesh model check models/digits-int8   the next step",
    )
)
def optimize(
    path: OneModelPath,
    int8: Annotated[bool, typer.Option("--int8", help="Weights of 8 bits; for CPUs.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Floats of 16 bits; for GPUs.")] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Fused operators; the numbers stay as precise.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The folder of models for the new one; the model's own by default.",
        ),
    ] = None,
    inputs: Inputs = None,
    min_agreement: Annotated[
        float,
        typer.Option(
            "--min-agreement",
            min=0.0,
            max=1.0,
            help="Write nothing where a smaller share of decisions stays the same.",
        ),
    ] = 0.99,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the version that an earlier run wrote.")
    ] = False,
    allow_slower: Annotated[
        bool,
        typer.Option(
            "--allow-slower",
            help="Write it though it is slower for one row and at its best batch: for its size.",
        ),
    ] = False,
    seconds: Seconds = 5.0,
    device: OnDevice = Device.CPU,
    threads: Threads = 0,
    as_json: options.Json = False,
) -> None:
    """Make a smaller or faster model beside the original, and measure what it gains and what it costs."""
    from capamesh.cli.model_tools import optimize_model  # noqa: PLC0415 - help starts faster

    asked = [
        name for name, is_asked in (("int8", int8), ("fp16", fp16), ("graph", graph)) if is_asked
    ]
    if len(asked) != 1:
        raise typer.BadParameter("give one of --int8, --fp16 and --graph", param_hint="--int8")
    optimize_model(
        path,
        asked[0],
        out,
        inputs,
        min_agreement,
        seconds,
        device.value,
        threads,
        may_replace=force,
        may_be_slower=allow_slower,
        as_json=as_json,
    )


class LlmWeights(StrEnum):
    """The kinds of weights that a language model is imported with."""

    Q8 = "q8"
    W8A8 = "w8a8"
    Q4 = "q4"
    FP16 = "fp16"
    FP32 = "fp32"


@group.command(
    epilog=examples(
        "capamesh model import-llm SmolLM2-135M-Instruct.Q4_1.gguf   writes models/SmolLM2-135M-Instruct-q8",
        "capamesh model import-llm model.gguf --weights q4 --name assistant",
        "capamesh model import-llm phi-4-mini-onnx --link   a folder of onnxruntime-genai's builder, as it is",
        "capamesh model inspect models/assistant   the next step",
    )
)
def import_llm(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A .gguf file, a folder that onnxruntime-genai's builder wrote, or one of Hugging Face.",
        ),
    ],
    weights: Annotated[
        LlmWeights | None,
        typer.Option(
            "--weights",
            help="The weights to make: 8 bits by default of a .gguf file (w8a8 is quicker for several at once);"
            " 4 bits keep those of a 4-bit file.",
        ),
    ] = None,
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="The folder of models for the new one.")
    ] = Path("models"),
    name: Annotated[
        str, typer.Option("--name", help="The model's name; as its source by default.")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the version that an earlier run wrote.")
    ] = False,
    link: Annotated[
        bool,
        typer.Option(
            "--link", help="Link the files of a folder that is taken as it is, instead of copying."
        ),
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare/--no-compare",
            help="Run the source of a .gguf file in 32 bits too, and hold the model against it.",
        ),
    ] = True,
    threads: Threads = 0,
    as_json: options.Json = False,
) -> None:
    """Make a language model ready to be served, and measure its speed and what its weights cost in quality."""
    from capamesh.cli.model_import import import_model  # noqa: PLC0415 - help starts faster

    import_model(
        source,
        None if weights is None else weights.value,
        to,
        name,
        threads,
        may_replace=force,
        is_linked=link,
        is_compared=compare,
        as_json=as_json,
    )


@group.command(
    epilog=examples(
        "capamesh model sign models --key publisher.key --create-key   the first time",
        "capamesh model sign models/digits/2 --key publisher.key   a new version",
        "capamesh network token --dir my-network/owner --role router --publisher 12D3...   the next step: let routers accept it",
    )
)
def sign(
    path: ModelPath,
    key: Annotated[
        Path, typer.Option("--key", metavar="FILE", help="The publisher's private key.")
    ],
    create_key: Annotated[
        bool, typer.Option("--create-key", help="Make the key where there is none.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Sign models as their publisher: what each version's files are. Writes capamesh.sig beside the versions."""
    from capamesh.cli.model_signing import sign_models  # noqa: PLC0415 - help starts faster

    sign_models(path, key, may_create_key=create_key, as_json=as_json)
