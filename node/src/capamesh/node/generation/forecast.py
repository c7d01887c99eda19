"""Estimates when a prompt that comes now would have its first token. Pure."""

from __future__ import annotations

from capamesh.node.generation.pace import LEAST_ALONE, Pace
from capamesh.node.generation.residents import Residents
from capamesh.node.generation.waiting import WaitingQueue


def first_token_s(
    residents: Residents,
    waiting: WaitingQueue,
    pace: Pace,
    prompt_tokens: int,
    *,
    is_bulk: bool,
) -> float:
    """Return the seconds until a prompt of so many tokens that came now would have its first token, as estimated.

    Prompts take turns, beside those who generate: a longer one that is being filled runs no more than this one, or one piece. Where no slot
    is free, half of what is still allowed to those before is taken for what they will generate (guess). What is bulk is in nobody's way but
    in that of what is bulk, too.
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
    left = sum(each.most_tokens - each.position for each in live)
    left += tokens - fill_tokens
    return fill_s + max(0, left) / (2 * pace.tokens_per_s)
