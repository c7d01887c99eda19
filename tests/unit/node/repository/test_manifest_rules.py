"""Rules that contradict each other are refused before any model is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capamesh.node.generation.lookup import MOST_LOOKUP
from capamesh.node.repository.limits import MAX_LOOKUP_TOKENS
from capamesh.node.repository.manifest import parse_manifest
from capamesh.node.repository.rule_checks import rules_problem
from capamesh.node.repository.rules import (
    BatchingRules,
    LoopRules,
    PipelineStep,
    RaggedInput,
    Rules,
    SequenceRules,
    StateTensor,
    WarmUp,
)
from capamesh.protocol.errors import ModelInvalid

LOOP = LoopRules((("x", "y"),), 5)
FIRST = PipelineStep("a", "", (("x", "in"),), (("y", "mid"),))
SECOND = PipelineStep("b", "", (("x", "mid"),), (("y", "out"),))


def ragged(*inputs: RaggedInput) -> Rules:
    return Rules(batching=BatchingRules(ragged=inputs))


def states(*tensors: StateTensor) -> Rules:
    return Rules(sequence=SequenceRules(tensors))


def warm(one: WarmUp) -> Rules:
    return Rules(warm_up=(one,))


@pytest.mark.parametrize(
    "rules",
    [
        Rules(),
        ragged(RaggedInput("a", mask="m", outputs=("y",)), RaggedInput("b", 2, outputs=("y",))),
        ragged(RaggedInput("a", buckets=(1, 2, 3))),
        states(StateTensor("h", "hn", 1, (2, 1, 3)), StateTensor("c", "cn")),
        warm(WarmUp((("y", (1,)),), (("x", "typical input-1.npy"),))),
        Rules(steps=(FIRST, SECOND)),
        Rules(steps=(FIRST, replace(FIRST, outputs=(("y", "again"),)))),
    ],
)
def test_rules_that_agree_have_no_problem(rules: Rules) -> None:
    assert rules_problem(rules, "m") == ""


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (
            ragged(RaggedInput("a"), RaggedInput("a", 2)),
            "batching.ragged: input 'a' is there twice",
        ),
        (
            ragged(RaggedInput("a"), RaggedInput("b", buckets=(4, 2))),
            "batching.ragged[1].buckets is [4, 2]; list the lengths in ascending order",
        ),
        (ragged(RaggedInput("a", buckets=(2, 2))), "batching.ragged[0].buckets is [2, 2]"),
        (
            ragged(RaggedInput("a", mask="m"), RaggedInput("b", mask="m")),
            "batching.ragged: mask 'm' is there twice",
        ),
        (ragged(RaggedInput("a", mask="a")), "batching.ragged: 'a' is both an input and a mask"),
        (
            ragged(RaggedInput("a", outputs=("y",)), RaggedInput("b", outputs=("y",))),
            "batching.ragged: output 'y' along axis 1 is cut twice",
        ),
        (
            states(StateTensor("h", "a"), StateTensor("h", "b")),
            "sequence.state: input 'h' is there twice",
        ),
        (
            states(StateTensor("h", "a"), StateTensor("c", "a")),
            "sequence.state: output 'a' is there twice",
        ),
        (
            states(StateTensor("h", "a", 1, (1,))),
            "sequence.state[0].axis is 1; the shape [1] has axes 0 to 0",
        ),
        (
            states(StateTensor("h", "a", 0, (2, 1))),
            "sequence.state[0].shape is [2, 1]; write 1 at axis 0",
        ),
        (
            replace(states(StateTensor("h", "a")), batching=ragged(RaggedInput("h")).batching),
            "sequence.state[0].input 'h' is in batching.ragged too",
        ),
        (
            replace(states(StateTensor("h", "a")), loop=LOOP),
            "loop: a model with sequences is not run",
        ),
        (
            replace(ragged(RaggedInput("x")), loop=LOOP),
            "loop.feedback: input 'x' is in batching.ragged",
        ),
        (Rules(steps=(FIRST,), loop=LOOP), "loop: a pipeline is not run in a loop"),
        (
            warm(WarmUp((("x", (1,)),), (("x", "a.npy"),))),
            "warm_up[0].files: input 'x' has a shape too",
        ),
        (warm(WarmUp((("x", (2**15, 2**15)),))), "warm_up[0].shapes: an input has 1073741824"),
        *(
            (
                warm(WarmUp(files=(("x", name),))),
                f"warm_up[0].files.x is {name!r}; name a .npy file beside",
            )
            for name in ("../a.npy", "a/b.npy", "a\\b.npy", "C:a.npy", ".a.npy", "a.npz", "..", "a")
        ),
        (replace(ragged(RaggedInput("a")), steps=(FIRST,)), "batching.ragged: a pipeline has no"),
        (replace(states(StateTensor("h", "a")), steps=(FIRST,)), "sequence: a pipeline keeps no"),
        (
            Rules(steps=(FIRST, replace(SECOND, model="m"))),
            "step[1].model is 'm' itself; a pipeline cannot contain itself",
        ),
        (Rules(steps=(replace(FIRST, model="../b"),)), "step[0].model '../b' is no model name"),
        (Rules(steps=(replace(FIRST, inputs=()),)), "step[0]: maps no inputs or no outputs"),
        (
            Rules(steps=(replace(FIRST, inputs=(("x", "in"), ("x", "other"))),)),
            "step[0].inputs: input 'x' is there twice",
        ),
        (
            Rules(steps=(FIRST, replace(SECOND, outputs=(("y", "mid2"), ("y", "out"))))),
            "step[1].outputs: output 'y' is there twice",
        ),
        (
            Rules(steps=(FIRST, replace(SECOND, outputs=(("y", "mid"),)))),
            "step[1].outputs: 'mid' is given by step[0] already",
        ),
        (
            Rules(steps=(SECOND, FIRST)),
            "step[1].outputs: 'mid' is used by step[0], which runs no later",
        ),
        (
            Rules(steps=(replace(FIRST, outputs=(("y", "in"),)),)),
            "step[0].outputs: 'in' is used by step[0], which runs no later",
        ),
    ],
)
def test_contradiction_is_named_by_its_key(rules: Rules, problem: str) -> None:
    assert rules_problem(rules, "m").startswith(problem)


@pytest.mark.parametrize(("key", "value"), [("providers", "[]"), ("allow_cpu_fallback", "true")])
def test_pipeline_says_nothing_about_providers(key: str, value: str) -> None:
    step = "[[step]]\nmodel = 'a'\ninputs = {x = 'in'}\noutputs = {y = 'out'}"
    with pytest.raises(ModelInvalid, match=f"{key}: a pipeline runs on no provider"):
        parse_manifest(f"{key} = {value}\n{step}".encode(), "f.toml", "chain")


def test_manifest_of_a_language_model_says_how_many_tokens_are_guessed() -> None:
    said = "task = 'chat'\n[generation]\nlookup_tokens = {}"
    task = parse_manifest(said.format(MAX_LOOKUP_TOKENS).encode(), "m.toml").task
    assert task.generation.lookup_tokens == MAX_LOOKUP_TOKENS == MOST_LOOKUP
    for bad in (-1, MAX_LOOKUP_TOKENS + 1, "'all'"):
        with pytest.raises(ModelInvalid, match="lookup_tokens"):
            parse_manifest(said.format(bad).encode(), "m.toml")
    with pytest.raises(ModelInvalid, match="generation: it means something with task = 'chat'"):
        parse_manifest(b"[generation]\nlookup_tokens = 4", "m.toml")


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (
            "[batching]\nmax_rows = 4",
            "batching: a model with task = 'chat' takes no tensors, and its node puts tokens together itself",
        ),
        ("[text]\nmax_tokens = 4", "text: it means something with task = 'text-embedding' or"),
        ("[[step]]\nmodel = 'a'\ninputs = {a = 'b'}\noutputs = {c = 'd'}", "task: a pipeline has"),
        (
            "[loop]\nfeedback = {x = 'y'}\nmax_steps = 4",
            "task: a model that runs in a loop has none",
        ),
    ],
)
def test_model_that_answers_messages_has_nothing_of_tensors(said: str, problem: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        parse_manifest(f"task = 'chat'\n{said}".encode(), "m.toml")
    assert problem in caught.value.message
