"""`capamesh chat`: talk with a model. Arguments and printing only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, Key, access
from capamesh.cli.help_texts import examples
from capamesh.cli.parsing import names, seconds

if TYPE_CHECKING:
    from capamesh.client import TextStream

EPILOG = examples(
    "capamesh chat   with the only model for chat that there is",
    "capamesh chat smollm2 --system 'Answer in one sentence.'",
    "capamesh chat smollm2 --text 'What is a router?'   one question, and its answer alone",
    "git diff | capamesh chat smollm2 --system 'Write a commit message.' > message.txt",
    "echo 'Hello' | capamesh chat smollm2 --json | jq .tokens_per_s",
)
_MOST_CHARS: Final = 2**20
"""The most characters that are read of a pipe: what a request may have in bytes."""


def chat(
    model: Annotated[
        str,
        typer.Argument(metavar="[MODEL]", help="Its name; not needed where only one is for chat."),
    ] = "",
    text: Annotated[
        str,
        typer.Option("--text", "-t", metavar="TEXT", help="Ask this alone, and end."),
    ] = "",
    system: Annotated[
        str,
        typer.Option("--system", metavar="TEXT", help="What the model is told before all else."),
    ] = "",
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", metavar="COUNT", min=1, help="The most tokens of an answer."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            metavar="NUMBER",
            min=0.0,
            max=2.0,
            help="0: the likeliest words; 2: any. The model's own by default.",
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p", metavar="NUMBER", min=0.0, max=1.0, help="Of the likeliest words, this part."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="NUMBER", help="The same one, the same answer."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="TIME",
            parser=seconds(0.001),
            help="The longest time of an answer; as long as the router allows by default.",
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
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Talk with MODEL: type, and read its answers as they come; Ctrl-C ends an answer, Ctrl-D the chat.

    What is piped in is one question, whose answer alone goes to standard output. The whole chat is sent with each question, and is
    kept nowhere: /save FILE writes it, /help tells the other commands.
    """
    from capamesh.cli.chat_session import ChatSession, model_for_chat, shown, summary  # noqa: PLC0415 - help starts faster
    from capamesh.cli.chat_terminal import ChatTerminal, told  # noqa: PLC0415 - the same
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - the same
    from capamesh.cli.printing import hint, print_json  # noqa: PLC0415 - the same
    from capamesh.client import RoutingOptions  # noqa: PLC0415 - the same

    is_talk = sys.stdin.isatty() and not text and not as_json
    is_seen = sys.stdout.isatty()

    def write(words: str) -> None:
        if not as_json:
            sys.stdout.write(shown(words) if is_seen else words.encode("utf-8", "replace").decode())
            sys.stdout.flush()

    with OperatorClient(
        options.several(router),
        routing=RoutingOptions(tenant=tenant, regions=names(region)),
        **access(header, ca, key, cert=cert, cert_key=cert_key, router=router),
    ) as client:
        chosen = model_for_chat(model, client.tasks())

        def begin(messages: Sequence[dict[str, object]]) -> TextStream:
            return client.chat_stream(
                chosen,
                messages,
                timeout_s=timeout,
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
            )

        names_of: dict[str, str] = {}

        def name_of(peer: str) -> str:
            if peer not in names_of:
                names_of[peer] = client.name_of(peer) or peer
            return names_of[peer]

        terminal = ChatTerminal(
            ChatSession(system), begin, read=_typed, write=write, hint=hint, name_of=name_of
        )
        if is_talk:
            hint(f"Chatting with {chosen}. /help tells the commands.")
            terminal.run()
            return
        answer, first_s, total_s = terminal.ask(text or _piped())
        if as_json:
            print_json(told(answer, first_s, total_s))
            return
        write("\n")
        hint(
            f"({summary(answer, first_s, total_s, name_of(answer.nodes[0]) if answer.nodes else '')})"
        )


def _typed(prompt: str) -> str:
    """Return a line that was typed, with the keys that shells have."""
    with contextlib.suppress(ImportError):  # Pythons without it have lines without history
        import_module("readline")  # which takes over `input`
    return input(prompt)


def _piped() -> str:
    """Return the question on standard input. Raises `InvalidRequest`: there is none, or it is too long."""
    from capamesh.protocol.errors import InvalidRequest  # noqa: PLC0415 - help starts faster

    text = sys.stdin.read(_MOST_CHARS + 1).strip()
    if not text:
        raise InvalidRequest("standard input is empty; pipe a question in, or give --text")
    if len(text) > _MOST_CHARS:
        raise InvalidRequest(
            f"standard input has more than {_MOST_CHARS} characters, which is all that a request may have"
        )
    return text
