"""Writes the page on errors: each error that the network knows, with what a client, a router and a person make of it."""

from __future__ import annotations

from collections.abc import Iterator

from reference_markdown import NOTE, code, sentence, table

from capamesh.protocol.errors import CapameshError, ClientError, LocalError, PeerError
from capamesh.router.http.errors import status_of

FAMILIES = (
    (ClientError, "The caller's", "The request must change before it is sent again."),
    (PeerError, "A peer's", "Another peer, or the same one later, may do better."),
    (
        LocalError,
        "This process's own",
        "They are met in logs and at commands; a router that meets one of its own answers with 500.",
    ),
)
"""The root of each family, whose fault its errors are, and what that means."""


def below(kind: type[CapameshError]) -> Iterator[type[CapameshError]]:
    """Yield the errors under `kind` that travel; other modules have errors of their own, that no peer is told."""
    for child in kind.__subclasses__():
        if child.__module__ == kind.__module__:
            yield child
            yield from below(child)


def rows(root: type[CapameshError]) -> list[tuple[str, ...]]:
    """Return code, class, status, whether another peer may be asked, and meaning of each error of a family."""
    return [
        (
            code(kind.code),
            code(kind.__name__),
            str(status_of(kind.__new__(kind))),
            "yes" if kind.is_retryable else "no",
            sentence(kind.__doc__),
        )
        for kind in (root, *below(root))
    ]


def errors_page() -> str:
    """Return the page on errors."""
    head = ("code", "class", "status", "retryable", "means")
    families = "\n\n".join(
        f"## {fault}\n\nAll are `{root.__name__}`. {meaning}\n\n{table(head, rows(root))}"
        for root, fault, meaning in FAMILIES
    )
    return f"""{NOTE}
# Errors

Whatever fails is answered over HTTP with the status below, the body `{{"error": "..."}}`, whose text is for a person, and the
header `X-Capamesh-Error` with the code, which programs may rely on. `Retry-After` says in how many seconds to come again, where
that helps. The [Python client](sdk.md) raises the class, from `capamesh.protocol.errors`.

*Retryable* (`is_retryable` of the class) says whether the same request may succeed at another peer, or later. Before a router
answers with such an error it has asked others itself, where a second run does no harm and time and its retry budget allowed: wait
before you send the request again. What to do about each: [troubleshoot](../how-to/troubleshoot.md).

{families}
"""
