"""The dashboard of language models: what callers wait for, what tokens there are, and what nodes do. Pure."""

from __future__ import annotations

from observability_panels import Dashboard, Panel
from observability_panels import line as _line
from observability_queries import Query, named, or_zero, quantile, rate
from observability_queries import mean as _mean

from capamesh.node.agent.metrics import definitions as node
from capamesh.protocol.metrics import Metric
from capamesh.router.telemetry import metrics as router

OF_MODEL = 'model=~"$model"'


def _quantiles(title: str, metric: Metric, by: str) -> Panel:
    """Return the median and the 99th percentile of times of language models, of which there may be none."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return Panel(
        title,
        "s",
        tuple(
            Query(or_zero(quantile(part, metric, by, OF_MODEL)), f"{legend} p{part * 100:.0f}")
            for part in (0.5, 0.99)
        ),
    )


TEXTS = Dashboard(
    "capamesh-texts",
    "Capamesh: language models",
    (
        _quantiles("Until the first token", router.FIRST_TOKEN, "model"),
        _quantiles("From one token to the next", router.TOKEN_GAP, "model"),
        _line(
            "Tokens a second",
            "none",
            or_zero(rate(router.TOKENS, "model, kind", OF_MODEL)),
            "{{model}} {{kind}}",
        ),
        _line(
            "Tokens a second by tenant",
            "none",
            or_zero(rate(router.TENANT_TOKENS, "tenant, kind")),
            "{{tenant}} {{kind}}",
        ),
        _line(
            "Tokens of prompts that did not have to run",
            "percentunit",
            or_zero(
                f"{rate(node.CACHED_TOKENS, 'instance, model', OF_MODEL)} / {rate(node.PROMPT_TOKENS, 'instance, model', OF_MODEL)}"
            ),
            "{{instance}} {{model}}",
        ),
        _line(
            "Tokens held, of what slots can hold",
            "percentunit",
            or_zero(
                f"sum by (instance, model) ({named(node.HELD_TOKENS, OF_MODEL)}) / (sum by (instance, model) ({named(node.MOST_HELD_TOKENS, OF_MODEL)}) > 0)"
            ),
            "{{instance}} {{model}}",
        ),
        _line(
            "Sequences of a step",
            "none",
            or_zero(
                f"{rate(node.TOKENS, 'instance, model', OF_MODEL)} * {_mean(node.TOKEN_GAP.name, 'instance, model')}"
            ),
            "{{instance}} {{model}}",
        ),
        _quantiles("Until the first token, at nodes", node.FIRST_TOKEN, "instance, model"),
        _line(
            "Sequences computed again",
            "none",
            or_zero(rate(node.PREEMPTIONS, "instance, model", OF_MODEL)),
            "{{instance}} {{model}}",
        ),
        _line(
            "Answers that another node went on with",
            "reqps",
            or_zero(rate(router.GENERATIONS_RESUMED, "model", OF_MODEL)),
            "{{model}}",
        ),
        _line(
            "Guessed tokens that were drawn",
            "percentunit",
            or_zero(
                f"{rate(node.ACCEPTED_TOKENS, 'instance, model', OF_MODEL)} / {rate(node.DRAFTED_TOKENS, 'instance, model', OF_MODEL)}"
            ),
            "{{instance}} {{model}}",
        ),
    ),
    models=True,
)
