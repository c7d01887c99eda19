"""The measures of one level of load, as vLLM's benchmark and NVIDIA's GenAI-Perf define them. Pure; all times are in seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

MOST_ERRORS: Final = 3
"""The most kinds of errors that are told of a level."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request, as its caller saw it."""

    began_s: float
    ended_s: float
    pieces_s: tuple[float, ...] = ()
    """The times at which pieces with text came."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """The tokens as the server counts them; where it does not, the pieces."""
    error: str = ""
    """The error in place of the answer; empty: there was none."""

    @property
    def first_token_s(self) -> float:
        """Return the time to the first token: from the request's beginning to the first piece with text."""
        return self.pieces_s[0] - self.began_s

    @property
    def total_s(self) -> float:
        """Return the time from the request's beginning to the answer's end."""
        return self.ended_s - self.began_s

    @property
    def token_s(self) -> float | None:
        """Return the time per output token: from the first token to the end, for each token behind the first; None: there is one."""
        behind = self.completion_tokens - 1
        return (self.ended_s - self.pieces_s[0]) / behind if behind > 0 else None

    @property
    def gaps_s(self) -> list[float]:
        """Return the times between pieces."""
        return [
            later - earlier
            for earlier, later in zip(self.pieces_s, self.pieces_s[1:], strict=False)
        ]


@dataclass(frozen=True, slots=True)
class Spread:
    """The spread of one measure over the requests of a level."""

    mean: float
    p50: float
    p90: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return that of some values, percentiles interpolated as numpy does; None: there are none."""
        if not values:
            return None
        p50, p90, p99 = (float(each) for each in np.percentile(values, (50, 90, 99)))
        return cls(float(np.mean(values)), p50, p90, p99, float(max(values)))


@dataclass(frozen=True, slots=True)
class Level:
    """The measures of one number of callers, each of whom asks again when answered."""

    callers: int
    requests: int
    """The requests that were answered."""
    errors: dict[str, int]
    """The errors of the others, the commonest first, with how often each came."""
    duration_s: float
    """Seconds from the first request's beginning to the last one's end."""
    prompt_tokens: float
    """The tokens of a prompt, on average."""
    completion_tokens: float
    """The tokens of an answer, on average."""
    first_token_s: Spread | None
    token_s: Spread | None
    gap_s: Spread | None
    total_s: Spread | None
    requests_per_s: float
    tokens_per_s: float
    """The tokens of all answers, for each second of the level."""

    @property
    def error_count(self) -> int:
        """Return the requests that failed."""
        return sum(self.errors.values())

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)


def level_of(callers: int, samples: Sequence[Sample]) -> Level:
    """Return the measures of a level by its requests; those that failed are counted, and in none of the times."""
    good = [sample for sample in samples if not sample.error]
    errors = Counter(sample.error for sample in samples if sample.error)
    duration_s = 0.0
    if samples:
        began_s = min(sample.began_s for sample in samples)
        duration_s = max(sample.ended_s for sample in samples) - began_s
    tokens = sum(sample.completion_tokens for sample in good)
    count = max(1, len(good))
    return Level(
        callers,
        len(good),
        dict(errors.most_common()),
        duration_s,
        sum(sample.prompt_tokens for sample in good) / count,
        tokens / count,
        Spread.of([sample.first_token_s for sample in good]),
        Spread.of([each for sample in good if (each := sample.token_s) is not None]),
        Spread.of([gap for sample in good for gap in sample.gaps_s]),
        Spread.of([sample.total_s for sample in good]),
        len(good) / duration_s if duration_s > 0 else 0.0,
        tokens / duration_s if duration_s > 0 else 0.0,
    )
