"""The request for generation, and the calls to nodes that are made of it. Pure.

A node gets one JSON object for each prompt: the prompt, the settings, and, where another node was lost, the tokens so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from capamesh.protocol.oip import InferRequest, RequestedOutput
from capamesh.protocol.tasks import GENERATION, PARTS
from capamesh.protocol.tensors import Datatype, Tensor, join_elements, split_elements
from capamesh.router.requests.generation.fields import json_bytes

MOST_BYTES: Final = 2**20
"""The most bytes of a body, and of what a node is asked (guess: 250,000 tokens of English)."""
MOST_CHOICES: Final = 8
"""The most answers to one prompt (guess: as many as a node decodes at once on a CPU)."""
MOST_TOKENS: Final = 131_072
"""The most tokens of an answer (guess: the longest context of common models)."""
SEEDS: Final = 2**64
"""The number of seeds; another number stands for the seed that is left when it is divided by this."""
UNKNOWN_TOKENS: Final = 512
"""The tokens that an answer is taken to have, until it is there, where the request bounds them not (guess)."""
BYTES_A_TOKEN: Final = 4
"""The bytes of a prompt that are taken for a token until a node has counted (English has about 4)."""
_SALT: Final = b"tenant"
"""The purpose of this hash of a tenant's name: hashes for others are not the same."""
_SALT_BYTES: Final = 12
_BLANKS: Final = b" \t\r\n"
"""The bytes that may stand behind JSON (RFC 8259)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for the continuation of one prompt or several, each as a call of its own."""

    model: str
    prompts: tuple[Mapping[str, Any], ...]
    """The prompts, each as the fields of what a node is asked: `messages` and their tools, or `prompt`."""
    settings: Mapping[str, Any]
    """All other fields of what a node is asked, the same for each prompt."""
    choices: int = 1
    """The answers to each prompt."""
    max_tokens: int | None = None
    """The most tokens of each answer; None: as many as the model has room for."""
    logprobs: int | None = None
    """The likeliest tokens that are told beside each; None: no log probabilities are told."""
    is_streamed: bool = False
    has_usage: bool = False
    """True if a stream tells at its end what it took."""
    affinity: str = ""
    """Requests with the same text begin alike, and are best run where the last one was."""
    prompt_field: str = ""
    """The client's name of the field that has the prompts, where it is another than the node's."""

    @property
    def param(self) -> str:
        """The field that has the prompts, as the client calls it."""
        return self.prompt_field or next(iter(self.prompts[0]))

    def raw(self, prompt: Mapping[str, Any]) -> bytes:
        """Return what a node is asked for one of the prompts, as JSON. Raises `InvalidParameter`: JSON cannot hold it."""
        return json_bytes({**prompt, **self.settings}, next(iter(prompt)))

    def estimate(self) -> tuple[int, int]:
        """Return the tokens that it may come to, by which it is let in, and the bytes of its prompts."""
        size_bytes = sum(len(json_bytes(prompt, next(iter(prompt)))) for prompt in self.prompts)
        answer = UNKNOWN_TOKENS if self.max_tokens is None else self.max_tokens
        tokens = size_bytes // BYTES_A_TOKEN + answer * self.choices * len(self.prompts)
        return tokens, size_bytes

    def call(
        self,
        prompt: Mapping[str, Any],
        so_far: Mapping[int, Sequence[int]] | None = None,
        ended: Sequence[int] = (),
        seed: int | None = None,
    ) -> InferRequest:
        """Return the call for one of the prompts. Raises `InvalidParameter`: JSON cannot hold it.

        `so_far` has the tokens that choices have already, by which a node goes on behind them, `ended` the choices that
        need no more, `seed` the one by which another node has drawn.
        """
        fields = {**prompt, **self.settings}
        if so_far is not None:
            fields.pop("echo", None)
            fields["so_far"] = {str(choice): list(ids) for choice, ids in so_far.items()}
            fields["ended"] = list(ended)
            if seed is not None:
                fields.setdefault("seed", seed)
        data = join_elements([json_bytes(fields, next(iter(prompt)))])
        given = Tensor(GENERATION, Datatype.BYTES, (1,), data)
        return InferRequest(self.model, "", "", (given,), (RequestedOutput(PARTS),))


def owned(given: Tensor, tenant: str, share: str) -> Tensor:
    """Return what a node is asked with whose it is, whatever it says of that itself: of equal names in JSON the last counts.

    Nodes keep beginnings of prompts for each `tenant` apart, and share their time fairly among them, or among the `share` of each where there
    is no tenant; they know one by a hash alone. Raises `InvalidRequest`: it is not one element.
    """
    (raw,) = split_elements(given.data, 1)
    raw = raw.rstrip(_BLANKS)
    share = "" if tenant else share
    end = f',"cache_salt":"{_hash(tenant)}","share":"{_hash(share)}"}}'.encode()
    if raw.endswith(end) or not raw.endswith(b"}"):  # one that is no object is refused there
        return given
    return Tensor(given.name, given.datatype, given.shape, join_elements([raw[:-1] + end]))


def _hash(name: str) -> str:
    if not name:
        return ""
    raw = name.encode("utf-8", "surrogatepass")
    return blake2b(raw, digest_size=_SALT_BYTES, person=_SALT).hexdigest()


def affinity_of(*beginning: object) -> str:
    """Return a short text that is the same for all requests that begin so."""
    digest = blake2b(digest_size=12)
    for each in beginning:
        digest.update(json_bytes(each, "messages"))
        digest.update(b"\n")
    return f"prefix {digest.hexdigest()}"
