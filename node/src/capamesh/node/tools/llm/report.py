"""The report of an import, as a value and as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """The numbers of one model on a text: what it thinks of it, and how fast it is."""

    tokens: int
    """The tokens that were guessed, each from all before it."""
    loss: float
    """The mean of the negative logarithms of the true tokens' probabilities: less is better."""
    decode_tokens_per_s: float
    """The tokens of a second of one sequence, one after the other."""
    prompt_tokens_per_s: float
    """The tokens of a second of a prompt, as one run."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The numbers of the source on the same text, in 32 bits, and how often both would say the same."""

    loss: float
    agreement: float
    """The share of tokens after which both think the same token most likely."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The outcome of an import."""

    name: str
    version: str
    digest: str
    source: str
    architecture: str
    weights: str
    """The kind of weights; "" where the source's own were taken over."""
    parameters: int
    """The numbers that the model has; 0: unknown."""
    size_bytes: int
    source_bytes: int
    score: Score
    comparison: Comparison | None
    """The source on the same text; None: it was not run."""
    runtime: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)
