"""Prompts go where their beginning was run before, unless more is to be done there than that saves. Pure, seeded.

A node keeps the state of prompts that it has run, so that one that begins alike runs only what is new. Where which beginning is, is known
by what was sent there: SGLang's cache-aware router keeps such an account for each worker, and falls back to the shortest queue where
loads differ by much. Here, as in NVIDIA Dynamo's KV router and in Preble (Srivatsa et al. 2024), one cost weighs both for each request:
the seconds until it would have its first token, of which what is kept is saved, and what it takes from those who generate there.

A node's word counts as far as it cannot draw requests: which beginnings it has is never asked, its speed is not believed beyond
`FASTER` times that of the others, and what waits there is at least a part of what this router itself has waiting there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from typing_extensions import override

from capamesh.router.fleet.replica import BYTES_A_TOKEN
from capamesh.router.policies.drawing import Draw, draw_some
from capamesh.router.policies.policy import IsEligible, PolicyBase

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.policies.request_shape import RequestShape

BLOCK_TOKENS: Final = 32
"""The tokens that one of a request's `beginnings` stands for: 128 bytes of English."""
COMPANY_TOKENS: Final = 64
"""One more that generates costs as much as so many tokens of a prompt (guess: a decoding step takes about as long)."""
CROWDED: Final = 4.0
"""A token for which there is no room costs so many times one of a prompt: it waits until others end (guess)."""
FASTER: Final = 4.0
"""A node is not believed to be more times faster than the median (guess: a GPU beside CPUs shows by what it has in flight, too)."""
OWN_PART: Final = 0.5
"""The part of what this router has waiting at a node that waits there at least, whatever it says (guess, as for other reports)."""
TOKEN_S: Final = 0.002
"""Seconds of a token of a prompt where no node has told it (measured: 135 million weights on two cores)."""
SETTLED_S: Final = 0.05
"""Seconds after which what was sent is in the reports that come (guess: a prompt is read in a thread)."""
KEPT_TOKENS: Final = 8192
"""The tokens that a node is taken to keep while it has not told it (guess)."""
MOST_BLOCKS: Final = 8192
"""The most beginnings that are known of one node, whatever it says that it keeps."""
MOST_KNOWN: Final = 131_072
"""The most of all nodes of a model (20 MB): each has an equal part."""
MOST_OWED: Final = 256
"""The most requests of one node that are counted beside its newest report."""
SMALL_FLEET: Final = 24
"""A fleet of at most so many replicas is looked at whole; of others those that have the beginning, and some that are drawn."""
DRAWN: Final = 8
"""Replicas that are drawn beside those that have the beginning (guess: as many as `cheapest` compares)."""
_SMOOTHING: Final = 0.05


class _Account:
    """The things that are known of one replica beside its reports."""

    __slots__ = ("blocks", "owed", "turn")

    def __init__(self) -> None:
        self.blocks: dict[int, None] = {}
        """The beginnings that it has, those that were used last at the end."""
        self.owed: list[tuple[float, float]] = []
        """The times at which requests were sent that are in no report yet, and their tokens."""
        self.turn = 0
        """The number of the pick that chose it last."""


class PrefixAware(PolicyBase):
    """The replica where a prompt costs least: what of it is new, behind all that waits, beside all that generate."""

    name: ClassVar[str] = "prefix"

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._accounts: dict[Replica, _Account] = {}
        self._holders: dict[int, dict[Replica, None]] = {}
        """The replicas that have each beginning."""
        self._replicas: Sequence[Replica] = ()
        self._picks = 0
        self._mean_tokens = 0.0
        """The new tokens of a prompt, smoothed."""

    @override
    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        if replicas is not self._replicas:
            self._follow(replicas)
        found = self._choose(replicas, is_eligible, request, now_s, self._draw)
        if found is None:
            return None
        replica, tokens = found
        self._picks += 1
        account = self._account(replica)
        account.turn = self._picks
        account.owed.append((now_s, tokens))
        del account.owed[:-MOST_OWED]
        self._mean_tokens += (tokens - self._mean_tokens) * (
            _SMOOTHING if self._mean_tokens else 1.0
        )
        self._remember(replica, account, request.beginnings)
        return replica

    @override
    def preview(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
        rng: random.Random,
    ) -> Replica | None:
        """Return whom `pick` would return, and take it for sent to nobody."""
        found = self._choose(replicas, is_eligible, request, now_s, rng.random)
        return None if found is None else found[0]

    @override
    def reported(self, replica: Replica, now_s: float) -> None:
        """Count what was sent long enough ago no more: it is in the report, or was answered."""
        account = self._accounts.get(replica)
        if account is not None and account.owed:
            settled_s = now_s - SETTLED_S
            account.owed = [each for each in account.owed if each[0] > settled_s]

    # inside

    def _choose(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
        draw: Draw,
    ) -> tuple[Replica, float] | None:
        """Return where a request costs least, and how many tokens of its prompt are new there; None: nobody is eligible."""
        depths = self._depths(request.beginnings)
        looked_at = replicas
        if len(replicas) > SMALL_FLEET:
            drawn = draw_some(replicas, is_eligible, draw, DRAWN)
            is_usual = replicas is self._replicas
            having = [each for each in depths if is_usual or each in replicas]
            looked_at = [*drawn, *[each for each in having if each not in drawn]]
        eligible = [each for each in looked_at if not each.is_gone and is_eligible(each)]
        usual_s = _usual_token_s(eligible)
        prompt = max(1.0, request.size_bytes / BYTES_A_TOKEN)
        best: Replica | None = None
        best_key = (0.0, 0)
        best_tokens = 0.0
        for replica in eligible:
            tokens = max(1.0, prompt - BLOCK_TOKENS * depths.get(replica, 0))
            account = self._accounts.get(replica)
            key = (
                self._cost_s(replica, account, tokens, prompt, usual_s),
                0 if account is None else account.turn,
            )
            if best is None or key < best_key:
                best, best_key, best_tokens = replica, key, tokens
        return None if best is None else (best, best_tokens)

    def _cost_s(
        self,
        replica: Replica,
        account: _Account | None,
        tokens: float,
        prompt: float,
        usual_s: float,
    ) -> float:
        """Return what a prompt of so many tokens, and so many new ones, costs at a replica."""
        load, rif = replica.load, replica.rif
        told_s = load.token_ns / 1e9
        token_s = max(told_s, usual_s / FASTER) if told_s else usual_s
        waiting = max(0, rif - replica.streams)
        owed = 0.0
        if account is not None and waiting:  # the others have their first token
            for _, each in account.owed[-waiting:]:
                owed += each
        own = waiting * self._mean_tokens
        wait_s = max(load.queue_us / 1e6 + owed * token_s, OWN_PART * own * token_s)
        company = COMPANY_TOKENS * max(rif, load.in_flight)
        crowd = 0.0
        if load.most_tokens:
            crowd = max(0.0, load.held_tokens + owed + prompt - load.most_tokens)
        network_s = replica.endpoint.network.transfer_s(int(prompt * BYTES_A_TOKEN))
        return wait_s + (tokens + company + CROWDED * crowd) * token_s + network_s

    def _depths(self, beginnings: Sequence[int]) -> dict[Replica, int]:
        """Return how many of a request's blocks each replica has; those that have none are left out."""
        depths: dict[Replica, int] = {}
        for depth, block in enumerate(beginnings, 1):
            holders = self._holders.get(block)
            if not holders:
                break
            for replica in holders:
                depths[replica] = depth
        return depths

    def _remember(self, replica: Replica, account: _Account, beginnings: Sequence[int]) -> None:
        """Take down that a replica has these beginnings from now on, and forget what it has no room for any more."""
        blocks = account.blocks
        for block in reversed(beginnings):  # without its beginning an end is of no use
            blocks.pop(block, None)
            blocks[block] = None
            self._holders.setdefault(block, {})[replica] = None
        kept = replica.load.kept_tokens or KEPT_TOKENS
        most = min(kept // BLOCK_TOKENS, MOST_BLOCKS, MOST_KNOWN // max(1, len(self._replicas)))
        while len(blocks) > most:
            oldest = next(iter(blocks))
            del blocks[oldest]
            self._forget(oldest, replica)

    def _forget(self, block: int, replica: Replica) -> None:
        holders = self._holders[block]
        del holders[replica]
        if not holders:
            del self._holders[block]

    def _account(self, replica: Replica) -> _Account:
        account = self._accounts.get(replica)
        if account is None:
            account = self._accounts[replica] = _Account()
        return account

    def _follow(self, replicas: Sequence[Replica]) -> None:
        """Take over who hosts the version now, and forget who does no more."""
        self._replicas = replicas
        here = set(replicas)
        for replica in [each for each in self._accounts if each not in here]:
            for block in self._accounts.pop(replica).blocks:
                self._forget(block, replica)


def _usual_token_s(replicas: Sequence[Replica]) -> float:
    """Return the median of the times of a token of a prompt that replicas tell, which no single one moves far; `TOKEN_S`: none does."""
    told = sorted(each.load.token_ns for each in replicas if each.load.token_ns)
    return told[(len(told) - 1) // 2] / 1e9 if told else TOKEN_S
