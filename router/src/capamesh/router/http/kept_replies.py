"""Replies with kept answers: what their bytes follow from, and the two headers that tell of them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capamesh.protocol.values import Value
from capamesh.router.http.replies import Reply, head_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.oip import InferRequest
    from capamesh.router.cache.entry import Entry
    from capamesh.router.cache.store import Store

CACHE_HEADER: Final = "X-Capamesh-Cache"
"""Says why an answer was not run for its request: it was kept."""
AGE_HEADER: Final = "Age"
"""Says for how many seconds it was kept, as HTTP words it."""
FORM_BYTES: Final = 800
"""The bytes that a written reply takes beside its body (measured: 782)."""


class Form(Value):
    """A written reply, without what tells of its age."""

    __slots__ = ("beginning", "body", "headers")

    def __init__(self, headers: Mapping[str, str], beginning: bytes, body: bytes) -> None:
        self.headers = headers
        self.beginning = beginning
        """The head up to the age."""
        self.body = body


def form_of(
    entry: Entry, asked: InferRequest, age_s: float, *, may_be_packed: bool
) -> Reply | None:
    """Return the reply with a kept answer, as it was written for such a request before; None: it was not, or is to be packed."""
    if asked.id or may_be_packed:
        return None
    forms = entry.forms
    form = None if forms is None else forms.get(_name(asked))
    if not isinstance(form, Form):
        return None
    age = str(max(0, int(age_s)))
    beginning = form.beginning + b"Age: " + age.encode() + b"\r\n"
    return Reply(200, {**form.headers, AGE_HEADER: age}, (form.body,), beginning)


def add_form(store: Store, entry: Entry, asked: InferRequest, reply: Reply) -> None:
    """Keep a reply that was written with a kept answer, unless the next cannot be the same: the request's id is part of it."""
    if asked.id or entry.is_dropped:
        return
    body = b"".join(reply.buffers)
    headers = {**reply.headers, CACHE_HEADER: entry.word}
    told = Reply(200, headers, ())
    beginning = head_of(told, b"", len(body))
    store.add_form(entry, _name(asked), Form(headers, beginning, body), FORM_BYTES + len(body))


def marked(reply: Reply, entry: Entry, age_s: float) -> Reply:
    """Return a reply that tells that its answer was kept."""
    return reply.replace(headers={**reply.headers, **kept_headers(entry.word, age_s)})


def kept_headers(word: str, age_s: float) -> dict[str, str]:
    """Return the headers that tell of an answer that was kept, why and for how long."""
    return {CACHE_HEADER: word, AGE_HEADER: str(max(0, int(age_s)))}


def _name(asked: InferRequest) -> tuple[object, ...]:
    """Return all that the bytes of a reply with one answer follow from."""
    return ("http", asked.outputs, asked.is_binary_default, asked.is_non_finite_text)
