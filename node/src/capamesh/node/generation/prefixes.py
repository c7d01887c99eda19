"""Keeps the cache of prompts' beginnings, so that the next prompt that begins so need not run it. Pure.

A prompt is kept as blocks of 16 tokens and a shorter last one. A block's key is a hash of its tokens and of the key before it, and
the first key is of the tenant: nobody learns by a quick answer what another has asked. Behind its end are the model's scores, as a block
without tokens: the same prompt need not run at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import numpy as np

from capamesh.node.generation.slots import CacheBlock, Logits, Slots

BLOCK: Final = 16
"""The tokens of a block (vLLM's; a prompt's beginning is found to the token all the same)."""
BLOCK_OVERHEAD_BYTES: Final = 1024
"""The bytes that a block takes beside its content (guess, on the large side)."""
_MOST_COMPARED: Final = 8
"""The blocks behind one another's beginning that are compared token by token, the newest (guess)."""
_MOST_SCORES: Final = 0.1
"""The share of all bytes that the scores behind one prompt may take (guess)."""
_KEY_BYTES: Final = 16


class _Block:
    """The cache of some tokens that follow on the block of the key `parent`."""

    __slots__ = ("content", "parent", "size_bytes", "tokens")

    def __init__(self, parent: bytes, tokens: list[int], content: CacheBlock) -> None:
        self.parent = parent
        self.tokens = tokens
        self.content = content
        self.size_bytes = content.nbytes + BLOCK_OVERHEAD_BYTES


class Match:
    """The kept beginning of a prompt, as far as it is kept."""

    __slots__ = ("count", "parts", "scores")

    def __init__(self) -> None:
        self.scores: Logits | None = None
        """The scores behind the prompt, in the shape [vocabulary], if all of it is kept with them."""
        self.count = 0
        """Tokens that need not run."""
        self.parts: list[tuple[CacheBlock, int]] = []
        """The contents with the number of tokens to take of each; their layout is the pool's own."""

    def add(self, content: CacheBlock, count: int) -> None:
        """Take `count` more tokens, the first of `content`, which has the pool's own layout."""
        self.parts.append((content, count))
        self.count += count

    def cut(self, most: int) -> None:
        """Leave out what is behind the first `most` tokens."""
        while self.count > most:
            content, count = self.parts.pop()
            self.count -= count
            if self.count < most:
                self.add(content, most - self.count)

    def load(self, slots: Slots, slot: int) -> None:
        """Append all tokens to `slot`."""
        for content, count in self.parts:
            slots.load(slot, content, count)


class Prefixes:
    """Blocks of one model's cache; the least used go first."""

    def __init__(self, limit_bytes: int, token_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._block_bytes = BLOCK * token_bytes + BLOCK_OVERHEAD_BYTES
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()
        self._children: dict[bytes, dict[bytes, None]] = {}
        """The keys of blocks by the key before them, the newest last."""
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, tenant: str, tokens: Sequence[int], most: int) -> Match:
        """Return what is kept of the first `most` of `tokens`, or of all with the scores behind them; what is found is used anew."""
        found = Match()
        key = _root(tenant)
        keys: list[bytes] = []
        while ahead := list(tokens[found.count : found.count + BLOCK]):
            following = _following(key, ahead)
            block = self._blocks.get(following) if len(ahead) == BLOCK else None
            if block is None:
                self._match_within(found, key, ahead, keys)
                key = following
                break
            found.add(block.content, BLOCK)
            key = following
            keys.append(key)
        end = _following(key, [])
        if found.count == len(tokens) and end in self._blocks:
            found.scores = self._blocks[end].content
            keys.append(end)
        else:
            found.cut(most)
        self._touch(keys)
        return found

    def save(
        self,
        tenant: str,
        tokens: Sequence[int],
        slots: Slots,
        slot: int,
        scores: Logits | None = None,
    ) -> None:
        """Keep the cache of `tokens`, which `slot` begins with, and the `scores` behind them, in the shape [vocabulary].

        Only as many of the first tokens are kept as there may be in all.
        """
        blocks = min(self._limit_bytes // self._block_bytes, -(-len(tokens) // BLOCK))
        key = following = _root(tenant)
        keys: list[bytes] = []
        for at in range(0, blocks * BLOCK, BLOCK):
            piece = list(tokens[at : at + BLOCK])
            following = _following(key, piece)
            if following not in self._blocks:
                if len(piece) < BLOCK and self._agreement(key, piece)[0] == len(piece):
                    break
                self._add(following, _Block(key, piece, slots.save(slot, at, at + len(piece))))
            key = following
            keys.append(key)
        if scores is not None and blocks * BLOCK >= len(tokens):
            last = _Block(following, [], scores)
            end = _following(following, [])
            if end not in self._blocks and last.size_bytes <= _MOST_SCORES * self._limit_bytes:
                self._add(end, last)
            if end in self._blocks:
                keys.append(end)
        self._touch(keys)
        while self.size_bytes > self._limit_bytes:
            self._drop_oldest()

    def _match_within(self, found: Match, key: bytes, ahead: list[int], keys: list[bytes]) -> None:
        count, best = self._agreement(key, ahead)
        if count:
            found.add(self._blocks[best].content, count)
            keys.append(best)

    def _agreement(self, key: bytes, ahead: list[int]) -> tuple[int, bytes]:
        """Return with how many of the tokens `ahead` a block behind `key` begins, and which does with the most."""
        most, best = 0, b""
        children = self._children.get(key)
        for place, child in enumerate(reversed(children) if children else ()):
            if place == _MOST_COMPARED:
                break
            count = common(self._blocks[child].tokens, ahead)
            if count > most:
                most, best = count, child
        return most, best

    def _add(self, key: bytes, block: _Block) -> None:
        self._blocks[key] = block
        self._children.setdefault(block.parent, {})[key] = None
        self.size_bytes += block.size_bytes

    def _touch(self, keys: list[bytes]) -> None:
        """Use `keys` anew, the last of a prompt first: without its beginning an end is of no use, so that the end goes first."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)

    def _drop_oldest(self) -> None:
        key, block = self._blocks.popitem(last=False)
        self.size_bytes -= block.size_bytes
        siblings = self._children[block.parent]
        del siblings[key]
        if not siblings:
            del self._children[block.parent]


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return with how many equal tokens both begin."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _root(tenant: str) -> bytes:
    return blake2b(tenant.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def _following(key: bytes, tokens: list[int]) -> bytes:
    return blake2b(key + np.array(tokens, np.int64).tobytes(), digest_size=_KEY_BYTES).digest()
