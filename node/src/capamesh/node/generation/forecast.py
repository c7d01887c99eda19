"""Estimates when a prompt that comes now would have its first token. Pure."""

from __future__ import annotations

import math

from capamesh.node.generation.answer_lengths import AnswerLengths
from capamesh.node.generation.pace import LEAST_ALONE, Pace
from capamesh.node.generation.residents import Residents
from capamesh.node.generation.sequence import Sequence
from capamesh.node.generation.waiting import WaitingQueue


def first_token_s(
    residents: Residents,
    waiting: WaitingQueue,
    pace: Pace,
    lengths: AnswerLengths,
    prompt_tokens: int,
    *,
    is_bulk: bool,
) -> float:
    """Return the seconds until a prompt of so many tokens that came now would have its first token, as estimated.

    Prompts take turns, beside those who generate: a longer one that is being filled runs no more than this one, or one piece. Where no slot is
    free, one waits for the first of those who have one to end, and for as many tokens as those who wait are expected to take. What is bulk is
    in nobody's way but in that of what is bulk, too.
    """
    live, free = residents.live, residents.free_slots
    count, tokens, fill_tokens = waiting.count, waiting.tokens, waiting.fill_tokens
    fill_left, most = 0, max(prompt_tokens, LEAST_ALONE)
    if not is_bulk:
        count -= waiting.bulk_count
        tokens -= waiting.bulk_tokens
        fill_tokens -= waiting.bulk_fill_tokens
        live = [each for each in live if not each.request.is_bulk]
        free += len(residents.live) - len(live)
    for each in residents.filling:
        if each.request.is_bulk and not is_bulk:
            free += each.width
        else:
            fill_left += min(residents.left(each), most)
    fill_s = (prompt_tokens + fill_tokens + fill_left) * pace.fill_token_s
    if live:
        fill_s = pace.beside_steps(fill_s)
    if count < free or not pace.tokens_per_s:
        return fill_s
    holders = [each for each in residents if is_bulk or not each.request.is_bulk]
    answers = tokens - fill_tokens + _first_end(holders, lengths) * len(holders)
    return fill_s + max(0.0, answers) / pace.tokens_per_s


def _first_end(holders: list[Sequence], lengths: AnswerLengths) -> float:
    """Return after how many steps the first of `holders` is expected to end: by itself, or with the last token that it may have."""
    least = min([each.most_tokens - each.position for each in holders], default=0)
    rate = sum([lengths.end_rate(len(each.out)) for each in holders])
    return (1.0 - math.exp(-rate * least)) / rate if rate else 0.0
