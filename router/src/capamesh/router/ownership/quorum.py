"""Counts who is for what: each invite has one vote, whatever number of nodes it has admitted. Pure.

An invite's vote is what more than half of its nodes do. So whoever holds one invite decides one vote, and not even
that while most nodes of the invite are someone else's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

C = TypeVar("C")


def votes(choices: Iterable[tuple[str, C]]) -> dict[str, C | None]:
    """Return each invite's vote by the choices of its nodes, given as (invite, choice).

    None: no choice has more than half of its nodes.
    """
    by_invite: defaultdict[str, Counter[C]] = defaultdict(Counter)
    for invite, choice in choices:
        by_invite[invite][choice] += 1
    return {invite: _majority(counts) for invite, counts in by_invite.items()}


def winner(by_invite: Mapping[str, C | None]) -> C | None:
    """Return what more than half of the invites vote for; None: nothing."""
    counts = Counter(vote for vote in by_invite.values() if vote is not None)
    best = counts.most_common(1)
    return best[0][0] if best and best[0][1] * 2 > len(by_invite) else None


def most_backed(by_invite: Mapping[str, C | None], kept: C | None = None) -> C | None:
    """Return what more invites vote for than for anything else; in a tie `kept` if it is in it, else None."""
    counts = Counter(vote for vote in by_invite.values() if vote is not None)
    most = max(counts.values(), default=0)
    best = [choice for choice, count in counts.items() if count == most]
    return best[0] if len(best) == 1 else kept if kept in best else None


def first_among(choices: Iterable[tuple[str, C]]) -> C | None:
    """Return what most invites vote for, in a tie what most nodes choose, in a tie what was chosen first.

    `choices` come in the order in which they were made. None: there are none.
    """
    listed = list(choices)
    nodes = Counter(choice for _, choice in listed)
    invites = Counter(vote for vote in votes(listed).values() if vote is not None)
    best: C | None = None
    most = (-1, -1)
    for choice, count in nodes.items():  # in the order of the first of each
        if (score := (invites[choice], count)) > most:
            best, most = choice, score
    return best


def _majority(counts: Counter[C]) -> C | None:
    choice, count = counts.most_common(1)[0]
    return choice if count * 2 > counts.total() else None
