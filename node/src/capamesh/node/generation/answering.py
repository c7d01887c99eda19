"""Makes the next part of a sequence's answer of a row of scores: draws a token, says its text, and sees whether that is the end. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from capamesh.node.generation.parts import LENGTH, STOP, Finish, TokenLogprob, TokenPart
from capamesh.node.generation.request import NO_LOGPROBS
from capamesh.node.generation.sampling import edited, sample, token_logprob
from capamesh.node.generation.sequence import Sequence
from capamesh.node.generation.step_plan import Piece
from capamesh.protocol.errors import CapameshError, InvalidRequest, RunFailed


def resume(sequence: Sequence) -> None:
    """Let a new sequence say what it has said elsewhere, to nobody. Raises `InvalidRequest`: its answer was complete."""
    request = sequence.request
    for count, token in enumerate(sequence.out, 1):
        if token in request.stop_tokens or _pushed(sequence, token, count)[1]:
            raise InvalidRequest("the tokens to resume end the answer; there is nothing left to do")
        if sequence.constraint is not None:
            sequence.constraint.accept(token)


def answer(sequence: Sequence, row: npt.NDArray[np.float32]) -> TokenPart:
    """Draw the next token of `sequence` by `row`, the model's scores in the shape [vocabulary], and return what it adds."""
    try:
        return _answer(sequence, row)
    except CapameshError as error:
        return broken_off(sequence, error)
    except Exception as exc:  # noqa: BLE001 - a tokenizer's or a grammar's bug ends one answer, not all
        return broken_off(sequence, RunFailed(f"the next token could not be used: {exc!r}"))


def answer_draft(draft: Piece) -> list[TokenPart]:
    """Return what a draft that has run adds: a part for each token that is drawn of its scores, until one is not what was guessed.

    The sequence's slot then holds more than it should: the tokens behind `Sequence.held`.
    """
    sequence, tokens, scores = draft.sequence, draft.tokens, draft.scores
    parts: list[TokenPart] = []
    if scores is None or sequence.is_ended:
        return parts
    for place in range(len(tokens)):
        sequence.fed += 1
        if sequence.wants_token:
            parts.append(answer(sequence, scores[place]))
            if parts[-1].is_last:
                break
        if place + 1 < len(tokens) and tokens[place + 1] != sequence.out[sequence.fed]:
            break
    return parts


def broken_off(sequence: Sequence, error: CapameshError) -> TokenPart:
    """Return the last part of an answer that ends unfinished."""
    return TokenPart((), "", error=error, usage=sequence.usage())


def _answer(sequence: Sequence, row: npt.NDArray[np.float32]) -> TokenPart:
    request = sequence.request
    sampling = request.sampling
    constraint = sequence.constraint
    mask = None if constraint is None else constraint.mask()
    scores = edited(row, sampling, sequence.history, mask)
    if len(sequence.out) < request.min_tokens:
        scores = scores.copy() if scores is row else scores
        scores[[each for each in request.stop_tokens if each < len(scores)]] = -np.inf
    token = sample(scores, sampling, sequence.choice, sequence.position)
    logprobs: tuple[TokenLogprob, ...] | None = None
    if sampling.logprobs != NO_LOGPROBS:
        logprobs = (token_logprob(row, token, sampling.logprobs),)
    sequence.out.append(token)
    if sequence.history is not None:
        sequence.history.add(token)
    if token in request.stop_tokens:
        return _end(sequence, token, "", logprobs, STOP)
    if constraint is not None:
        constraint.accept(token)
    text, is_stopped = _pushed(sequence, token, len(sequence.out))
    if is_stopped:
        return TokenPart((token,), text, logprobs, STOP, sequence.usage())
    if constraint is not None and constraint.is_complete:
        return _end(sequence, token, text, logprobs, STOP)
    if sequence.is_full:
        return _end(sequence, token, text, logprobs, LENGTH)
    return TokenPart((token,), text, logprobs)


def _pushed(sequence: Sequence, token: int, count: int) -> tuple[str, bool]:
    """Return the text that may go out now that `token`, the answer's `count`-th, has come, and whether a stop string ended it."""
    text = sequence.text.push(token)
    return sequence.stops.push(text) if count >= sequence.request.min_tokens else (text, False)


def _end(
    sequence: Sequence,
    token: int,
    text: str,
    logprobs: tuple[TokenLogprob, ...] | None,
    finish: Finish,
) -> TokenPart:
    """Return the last part, with the text that was held back; a stop string may be complete only with it."""
    rest, is_stopped = sequence.stops.push(sequence.text.flush())
    text += rest if is_stopped else rest + sequence.stops.flush()
    return TokenPart((token,), text, logprobs, STOP if is_stopped else finish, sequence.usage())
