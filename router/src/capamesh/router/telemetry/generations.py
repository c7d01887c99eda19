"""The texts that language models have generated, as plain numbers: tokens, and the times that callers wait for them. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from capamesh.router.telemetry.metrics import LATENCY
from capamesh.router.telemetry.totals import MOST_TENANTS, OTHERS, Latencies

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName

KINDS: Final = ("prompt", "cached", "completion")
"""The kinds of tokens: those of prompts, those of these that did not have to run, and those of answers."""


class _Texts:
    """The texts of one model."""

    __slots__ = ("first", "gaps", "tokens")

    def __init__(self) -> None:
        self.first = Latencies()
        """The times until a first token."""
        self.gaps = Latencies()
        """The mean times from one token to the next, of each answer."""
        self.tokens = [0, 0, 0]
        """The tokens by their `KINDS`."""


class GeneratedTexts:
    """Counts what models have generated, and for which tenants."""

    __slots__ = ("_tenants", "models")

    def __init__(self) -> None:
        self.models: dict[ModelName, _Texts] = {}
        self._tenants: dict[str, list[int]] = {}

    def ended(
        self,
        model: ModelName,
        tenant: str,
        tokens: tuple[int, int, int],
        first_s: float | None,
        gap_s: float | None,
    ) -> None:
        """Count an answer of a hosted model that has ended, whoever broke it off, by the tokens of each of the `KINDS`.

        `first_s` is the time until its first token, None: there was none; `gap_s` the mean time from one to the next, None: there was
        one at most. A tenant of "" has no key, and is not counted.
        """
        texts = self.models.get(model)
        if texts is None:
            texts = self.models[model] = _Texts()
        for kind, count in enumerate(tokens):
            texts.tokens[kind] += count
        if first_s is not None:
            _add(texts.first, first_s)
        if gap_s is not None:
            _add(texts.gaps, gap_s)
        if tenant:
            is_known = tenant in self._tenants or len(self._tenants) < MOST_TENANTS
            of_tenant = self._tenants.setdefault(tenant if is_known else OTHERS, [0, 0, 0])
            for kind, count in enumerate(tokens):
                of_tenant[kind] += count

    def of_models(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Yield the tokens by model and kind."""
        for model, texts in list(self.models.items()):
            for kind, count in zip(KINDS, texts.tokens, strict=True):
                yield (model, kind), count

    def of_tenants(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Yield the tokens by tenant and kind."""
        for tenant, tokens in list(self._tenants.items()):
            for kind, count in zip(KINDS, tokens, strict=True):
                yield (tenant, kind), count


def _add(latencies: Latencies, seconds: float) -> None:
    latencies.counts[bisect_left(LATENCY.bounds, seconds)] += 1
    latencies.seconds += seconds
