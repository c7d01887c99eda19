"""The sequences that wait for a slot: who is next, and who gives way where there is no room for all. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from capamesh.node.generation.sequence import Sequence
from capamesh.node.generation.shares import TenantShares


class WaitingQueue:
    """Sequences that wait, each with its siblings; bounded in sequences and in tokens.

    The next is of the smallest rank, among these of the client that has had least, among these the earliest.
    """

    def __init__(self, shares: TenantShares, max_count: int, max_tokens: int) -> None:
        self._shares = shares
        self._max_count = max_count
        self._max_tokens = max_tokens
        self._waiting: list[Sequence] = []
        self.count = 0
        """Sequences that wait, siblings included."""
        self.tokens = 0
        """Tokens that they are expected to take, prompts and answers together."""
        self.fill_tokens = 0
        """Tokens that they get before they generate."""
        self.bulk_count = self.bulk_tokens = self.bulk_fill_tokens = 0
        """The same of those of them that are bulk."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def __contains__(self, sequence: object) -> bool:
        # compiled code does not look into `__iter__` for it
        return sequence in self._waiting

    def has_room(self, width: int, tokens: int) -> bool:
        """Return whether `width` more sequences, which are expected to take `tokens` in all, may wait."""
        return self.count + width <= self._max_count and self.tokens + tokens <= self._max_tokens

    def put(self, sequence: Sequence) -> None:
        """Let `sequence` wait; those that are put back, for they gave way, may be as many more than have room as there are slots."""
        self._waiting.append(sequence)
        self._count(sequence, 1)

    def remove(self, sequence: Sequence) -> None:
        """Let `sequence`, which waits, wait no more."""
        self._waiting.remove(sequence)
        self._count(sequence, -1)

    def withdraw(self, sequence: Sequence) -> bool:
        """Take out `sequence` alone, whose siblings go on waiting; return whether it was waiting."""
        for place, leader in enumerate(self._waiting):
            if leader is sequence:
                self._count(leader, -1)
                if leader.siblings:
                    heir, *rest = leader.siblings
                    heir.siblings, leader.siblings = rest, []
                    self._waiting[place] = heir
                    self._count(heir, 1)
                else:
                    del self._waiting[place]
                return True
            if sequence in leader.siblings:
                self._count(leader, -1)
                leader.siblings.remove(sequence)
                self._count(leader, 1)
                return True
        return False

    def in_order(self) -> list[Sequence]:
        """Return all that wait, the next first."""
        return sorted(self._waiting, key=self._turn)

    def position(self, sequence: Sequence) -> int:
        """Return how many are before `sequence`, by what clients have had until now."""
        turn = self._turn(sequence)
        return sum(self._turn(each) < turn for each in self._waiting)

    def giving_way(self, client: str, rank: int, width: int, tokens: int) -> list[Sequence] | None:
        """Return who must leave so that a newcomer may wait; None if too few do, and nobody leaves.

        A larger rank gives way to a smaller one. Of one's own rank the client with the most that waits gives way, if it
        has more than the newcomer would have. The last of them goes first.
        """
        if width > self._max_count or tokens > self._max_tokens:
            return None
        counts: Counter[str] = Counter()
        for each in self._waiting:
            counts[each.request.client] += each.width
        left = self.in_order()
        leaving: list[Sequence] = []
        count, held = self.count, self.tokens
        while count + width > self._max_count or held + tokens > self._max_tokens:
            worst = left[-1] if left else None
            if worst is None or worst.request.rank < rank:
                return None
            if worst.request.rank == rank:
                largest = max(
                    (one for one in left if one.request.rank == rank),
                    key=lambda one: counts[one.request.client],
                )
                crowd = largest.request.client
                if crowd == client or counts[crowd] <= counts[client] + width:
                    return None
                worst = next(
                    one
                    for one in reversed(left)
                    if one.request.rank == rank and one.request.client == crowd
                )
            left.remove(worst)
            leaving.append(worst)
            counts[worst.request.client] -= worst.width
            count -= worst.width
            held -= cost(worst)
        return leaving

    def _turn(self, sequence: Sequence) -> tuple[int, float, int]:
        request = sequence.request
        return request.rank, self._shares.used_s(request.client), sequence.order

    def _count(self, sequence: Sequence, sign: int) -> None:
        self.count += sign * sequence.width
        self.tokens += sign * cost(sequence)
        self.fill_tokens += sign * sequence.fill_tokens
        if sequence.request.is_bulk:
            self.bulk_count += sign * sequence.width
            self.bulk_tokens += sign * cost(sequence)
            self.bulk_fill_tokens += sign * sequence.fill_tokens


def need(sequence: Sequence) -> int:
    """Return the most tokens that `sequence` and its siblings can come to hold."""
    return sequence.most_tokens * sequence.width


def cost(sequence: Sequence) -> int:
    """Return the tokens that `sequence` and its siblings are expected to take."""
    return sequence.expected_tokens * sequence.width
