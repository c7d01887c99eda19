"""Decides whether a request may wait for its slot: what can never be, and what has no room now. Pure."""

from __future__ import annotations

from typing import Final

from capamesh.node.generation.request import GenerationRequest
from capamesh.protocol.errors import ContextExceeded, InvalidRequest, Overloaded, TooLarge

MOST_RETRY_AFTER_S: Final = 60.0
"""The longest time after which a refused caller is told to come again (guess)."""


def check_request(
    request: GenerationRequest, *, slots: int, length: int, pool_tokens: int, vocabulary: int
) -> None:
    """Raise what tells why `request` can never be served here; return if it can.

    Raises:
        InvalidRequest: tokens that the model does not have, more choices than slots.
        ContextExceeded: a prompt that has no room in a slot.
        TooLarge: a prompt with answers for which there is no memory, whoever else is there.
    """
    for name, tokens in (
        ("prompt", request.prompt),
        ("resumed tokens", request.resumed),
        ("logit_bias", tuple(request.sampling.logit_bias)),
    ):
        for token in (min(tokens), max(tokens)) if tokens else ():
            if not 0 <= token < vocabulary:
                raise InvalidRequest(
                    f"{name} has token {token}; the model's tokens are 0 to {vocabulary - 1}"
                )
    if request.choices > slots:
        raise InvalidRequest(
            f"n is {request.choices}; this node generates {slots} sequences at once: ask for fewer at a time"
        )
    has = len(request.prompt) + len(request.resumed)
    if has >= length:
        raise over_context(has, length)
    wanted = min(len(request.prompt) + request.max_tokens, length) * request.choices
    if wanted > pool_tokens:
        raise TooLarge(
            f"prompt and answers may take {wanted} tokens; this node has memory for {pool_tokens}:"
            " lower max_tokens or n, or shorten the prompt"
        )


def over_context(tokens: int, length: int, *, is_least: bool = False) -> ContextExceeded:
    """Return the refusal of a prompt of so many tokens, or at least so many, where prompt and answer may have `length`.

    It has words by which clients know that a shorter prompt will do: LiteLLM by its beginning, which is OpenAI's, LangChain by "prompt is too long".
    """
    return ContextExceeded(
        f"This model's maximum context length is {length} tokens, at least one of them the answer's;"
        f" the prompt is too long, it has {'at least ' if is_least else ''}{tokens}: shorten it"
    )


def no_room(waiting: int, tokens: int, retry_after_s: float) -> Overloaded:
    """Return the refusal of what would have to wait behind too many."""
    return Overloaded(
        f"{waiting} sequences wait, which are to take some {tokens} tokens, and there is no room for more; ask again later",
        min(retry_after_s, MOST_RETRY_AFTER_S),
    )


def too_late(first_token_s: float, left_s: float) -> Overloaded:
    """Return the refusal of what would not begin before its deadline."""
    return Overloaded(
        f"the first token would come after about {first_token_s:.1f} s, and the deadline is in {left_s:.1f} s;"
        " allow more, or ask another node",
        min(first_token_s, MOST_RETRY_AFTER_S),
    )
