"""Measures how fast the model decodes and fills, and says how many tokens of a prompt a step may run. Pure."""

from __future__ import annotations

from typing import Final

from capamesh.node.generation.settings import MIN_CHUNK

SIZES: Final = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""The sizes of chunks of which the times are kept apart: small ones cost more a token (measured: 16 tokens 1.4 times, 2 tokens 4 times)."""
LEAST_SIZE: Final = 16
"""The size of the smallest chunks that a longer prompt is cut into (guess: smaller ones cost more than whoever generates would wait)."""
LEAST_ALONE: Final = 88
"""The size of the smallest chunks where nobody generates (measured: a prompt of 2,000 tokens takes 1 % longer than in chunks of 512, with 64 it takes 5 %)."""
FIRST_SIZE: Final = 32
"""The size of chunks beside sequences that generate before anything was measured (measured: 80 ms on two cores with 135 M weights)."""
TILE: Final = 32
"""The tokens of a chunk that attention runs together (measured, ONNX Runtime 1.31 on the CPU, heads of 16): one that is left over rounds as one alone does."""
_RISE: Final = 0.5
_FALL: Final = 0.1
"""The weights of a new time: a slower one counts at once, for whoever waits; a faster one may be luck (guess)."""


class Pace:
    """The times of runs, as of late."""

    def __init__(self, target_gap_s: float, max_chunk: int) -> None:
        self._target_gap_s = target_gap_s
        self._max_chunk = max_chunk
        self._fill_s: dict[int, float] = {}
        """Seconds of one token of a prompt, by the size of its chunk."""
        self._rows = 0
        """The sequences of the newest step that decoded."""
        self.decode_s = 0.0
        """Seconds of a step that decodes as many; 0 before the first."""
        self.tokens_per_s = 0.0
        """Tokens generated a second, while any sequence generates; 0 before the first."""

    @property
    def fill_token_s(self) -> float:
        """Seconds of one token of a prompt in the chunks that were run, the fastest of them; 0 before the first."""
        return min(self._fill_s.values(), default=0.0)

    def decoded(self, rows: int, took_s: float, since_last_s: float) -> None:
        """Count a step that took `took_s` and ended `since_last_s` after the one before."""
        self.decode_s = _moved(self.decode_s if rows == self._rows else 0.0, took_s)
        self._rows = rows
        speed = rows / max(since_last_s, took_s, 1e-9)
        self.tokens_per_s = (
            speed if not self.tokens_per_s else 0.9 * self.tokens_per_s + 0.1 * speed
        )

    def filled(self, tokens: int, took_s: float) -> None:
        """Count a chunk of `tokens`.

        A larger one costs no more a token: what is known of such, and may be of a first run or of a busy moment, falls with smaller ones
        that are quicker. Else no chunk of a size that was once too slow would run again, and show that it is not.
        """
        size, token_s = _size(tokens), took_s / tokens
        self._fill_s[size] = _moved(self._fill_s.get(size, 0.0), token_s)
        for larger, known_s in self._fill_s.items():
            if larger > size and known_s > token_s:
                self._fill_s[larger] = _moved(known_s, token_s)

    def chunk(self, left: int, *, is_alone: bool) -> int:
        """Return how many of the `left` tokens of a prompt to run now: never 1 more than tiles hold, and never so that 1 is left over.

        No more than keep the gap of those who generate at its target; with `is_alone` no more than another prompt may wait for.
        """
        most = self._largest_in_time(is_alone=is_alone)
        # a few tokens that are left over take as long as many
        if is_alone and left <= most + most // 4:
            most = min(left, self._max_chunk)
        size = min(left, most)
        while size > MIN_CHUNK and (size % TILE == 1 or left - size == 1):
            size -= 1
        return size

    def is_in_time(self, tokens: int, spent_s: float) -> bool:
        """Return whether one more chunk keeps the gap at its target, of `tokens`, behind others that took `spent_s` since the last decoding step."""
        token_s = self._fill_s.get(_size(tokens))
        room_s = self._target_gap_s - self.decode_s - spent_s
        return token_s is not None and token_s * tokens <= room_s

    def beside_steps(self, fill_s: float) -> float:
        """Return how long chunks of `fill_s` in all take between the steps of those who generate."""
        target_s = self._target_gap_s
        return fill_s * target_s / max(target_s - self.decode_s, 0.1 * target_s)

    def _largest_in_time(self, *, is_alone: bool) -> int:
        room_s = self._target_gap_s - (0.0 if is_alone else self.decode_s)
        is_known = any(LEAST_SIZE <= size <= FIRST_SIZE for size in self._fill_s)
        largest = LEAST_SIZE if is_known else FIRST_SIZE
        if is_alone:
            largest = LEAST_ALONE
        known = 0.0
        for size in SIZES:
            if size < LEAST_SIZE:
                continue
            if size > self._max_chunk:
                break
            measured = self._fill_s.get(size)
            if measured is None and not known:
                continue
            known = measured or known
            if known * size > room_s:
                break
            largest = max(largest, size)
        return max(3, min(largest, self._max_chunk))


def _size(tokens: int) -> int:
    for size in SIZES:
        if tokens <= size:
            return size
    return SIZES[-1]


def _moved(old: float, new: float) -> float:
    if not old:
        return new
    return old + (new - old) * (_RISE if new > old else _FALL)
