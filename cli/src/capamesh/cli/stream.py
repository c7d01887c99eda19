"""`capamesh stream`: run a model on sound, window by window. Arguments and printing only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Headers, Key, access
from capamesh.cli.help_texts import examples
from capamesh.cli.parsing import names, seconds

EPILOG = examples(
    "capamesh stream silero_vad call.wav   how likely each window is speech",
    "arecord -q -t raw -f FLOAT_LE -r 16000 | capamesh stream silero_vad -   a microphone, live",
    "capamesh stream silero_vad call.wav --json | jq .outputs   a line of JSON for each window",
)


def stream(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model whose manifest declares a window.")
    ],
    sound: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A WAV file of one channel and 16 bits; - is standard input, with raw samples as the model takes them.",
        ),
    ],
    version: Annotated[str, typer.Option("--version", help="Which version; any by default.")] = "",
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="TIME",
            parser=seconds(0.001),
            help="The deadline of each window; the router's by default.",
        ),
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="As this tenant's.")] = "",
    region: Annotated[
        str,
        typer.Option("--region", metavar="NAME,...", help="Only nodes that say they are there."),
    ] = "",
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    as_json: options.Json = False,
) -> None:
    """Run MODEL on samples, a window at a time, and print the outputs of each as they come.

    A window that fails is told on standard error, and the next one begins anew. Exit status 3 when some did.
    """
    from capamesh.cli.output_values import json_line_of, shown_outputs  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import hint  # noqa: PLC0415 - the same
    from capamesh.cli.sound_files import raw_samples, samples_of  # noqa: PLC0415 - the same
    from capamesh.client import Client, RoutingOptions  # noqa: PLC0415 - the same
    from capamesh.protocol.errors import CapameshError, InvalidRequest, ModelUnavailable  # noqa: PLC0415 - the same

    missed: list[CapameshError] = []

    def told(error: CapameshError) -> None:
        missed.append(error)
        hint(f"a window was missed: {error.message}")

    routing = RoutingOptions(tenant=tenant, regions=names(region))
    with Client(options.several(router), **access(header, ca, key, router=router)) as client:
        try:
            metadata = client.metadata(model, version)
        except ModelUnavailable:
            # a stream without samples has it loaded, or says why not
            list(client.stream_samples(model, (), version=version, routing=routing))
            metadata = client.metadata(model, version)
        window = metadata.window
        if window is None:
            raise InvalidRequest(
                f"model {model!r} takes no samples: its manifest declares no window; ask it with capamesh infer"
            )
        spec = next(spec for spec in metadata.inputs if spec.name == window.input)
        samples = (
            raw_samples(sys.stdin.buffer)
            if sound == "-"
            else samples_of(Path(sound), window.rate_hz, spec.datatype)
        )
        answers = client.stream_samples(
            model, samples, version=version, timeout_s=timeout, routing=routing, on_error=told
        )
        for number, outputs in enumerate(answers):
            at = number + len(missed)  # windows before it that nobody answered
            began_s = at * window.samples / window.rate_hz if window.rate_hz else None
            line = (
                json_line_of(at, began_s, outputs)
                if as_json
                else shown_outputs(at, began_s, outputs)
            )
            print(line, flush=True)
    if missed:
        hint(f"{len(missed)} windows were missed")
        raise typer.Exit(3)
