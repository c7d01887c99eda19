"""What `capamesh.toml` may say, and how it complains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.generation.lookup import MOST_LOOKUP
from capamesh.node.repository.limits import MAX_LOOKUP_TOKENS, MAX_MANIFEST_BYTES
from capamesh.node.repository.manifest import Manifest, parse_manifest
from capamesh.node.repository.rule_checks import rules_problem
from capamesh.node.repository.rules import (
    BatchingRules,
    LoopRules,
    PipelineStep,
    RaggedInput,
    Rules,
    SequenceRules,
    StateTensor,
    VersionChoice,
    VersionPolicy,
    WarmUp,
)
from capamesh.protocol.errors import ModelInvalid

FILE = "models/digits/capamesh.toml"


def test_every_key_is_read() -> None:
    raw = """
description = "Handwritten digits é"
providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
allow_cpu_fallback = true
max_queue = 7
instances = 2
pinned = true
idempotent = false
deterministic = false
versions = {specific = [3, 1]}
batching = {enabled = true, max_rows = 64, max_delay_us = 500, ragged = [
    {input = "ids", axis = 2, pad = 256, buckets = [16, 64], mask = "mask", outputs = ["hidden", "scores"]},
    {input = "types"},
]}
sequence = {idle_s = 2, max_bytes = 4096, state = [
    {input = "h", output = "h_next", axis = 1, shape = [2, 1, 128]},
]}
warm_up = [{shapes = {ids = [4, 64], flag = []}, count = 3}, {files = {ids = "typical.npy"}}, {}]
"""
    ids = RaggedInput("ids", 2, 256.0, (16, 64), "mask", ("hidden", "scores"))
    rules = Rules(
        batching=BatchingRules(True, 64, 500, (ids, RaggedInput("types"))),
        sequence=SequenceRules((StateTensor("h", "h_next", 1, (2, 1, 128)),), 2.0, 4096),
        warm_up=(
            WarmUp((("ids", (4, 64)), ("flag", ())), count=3),
            WarmUp(files=(("ids", "typical.npy"),)),
            WarmUp(),
        ),
        versions=VersionPolicy(VersionChoice.SPECIFIC, versions=(1, 3)),
        instances=2,
        is_pinned=True,
        is_idempotent=False,
        is_deterministic=False,
    )
    assert parse_manifest(raw.encode(), FILE) == Manifest(
        description="Handwritten digits é",
        providers=("TensorrtExecutionProvider", "CUDAExecutionProvider"),
        allow_cpu_fallback=True,
        max_queue=7,
        rules=rules,
    )


def test_model_with_states_is_not_idempotent_unless_it_claims_so() -> None:
    sequence = b"[[sequence.state]]\ninput = 'h'\noutput = 'n'"
    assert not parse_manifest(sequence, FILE).rules.is_idempotent
    with pytest.raises(ModelInvalid, match="gives another answer the second time"):
        parse_manifest(b"idempotent = true\n" + sequence, FILE)


def test_unknown_key_is_named_with_the_file_and_the_allowed_keys() -> None:
    with pytest.raises(ModelInvalid) as caught:
        parse_manifest(b"max_qeue = 7", FILE)
    assert caught.value.message == (
        "models/digits/capamesh.toml: unknown key max_qeue (did you mean max_queue?); allowed keys are "
        "description, providers, allow_cpu_fallback, max_queue, instances, pinned, idempotent, deterministic, "
        "versions, batching, sequence, loop, window, warm_up, step, task, text, embedding, image, file, generation"
    )


TWICE = b"ExecutionProvider"


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"providers = 'CUDAExecutionProvider'", "expected a list of at most 8 entries"),
        (b"providers = ['cuda']", "providers[0] is 'cuda', expected a name of at most 80"),
        (b"providers = [" + b"'AExecutionProvider'," * 9 + b"]", "providers is a list of 9"),
        (b"providers = ['A" + TWICE + b"', 'A" + TWICE + b"']", "2 times; name it once"),
        (b"allow_cpu_fallback = 1", "allow_cpu_fallback is 1, expected true or false"),
        (b"max_queue = true", "max_queue is true, expected a whole number from 1 to 1000000"),
        (b"max_queue = 0", "max_queue is 0, expected a whole number from 1 to 1000000"),
        (b"description = ", "is not TOML"),
        (b"#" * (MAX_MANIFEST_BYTES + 1), "has 65537 bytes, at most 65536 are allowed"),
        (b"max_queue" + b".a" * 2000 + b" = 1", "line 1 has a key of over 16 parts; shorten it"),
        (b"max_queue = 2026-11-24", "max_queue is the time 2026-11-24, expected"),
        (b"pinned = 'yes'", "pinned is 'yes', expected true or false"),
        (b"versions = {newest = 1}", "unknown key versions.newest; allowed keys are latest"),
        (b"versions = {latest = 0}", "versions.latest is 0, expected a whole number from 1"),
        (b"versions = {specific = []}", "versions.specific is a list of 0, expected a list of 1"),
        (b"batching.ragged = [3]", "batching.ragged[0] is 3, expected a table"),
        (b"[[batching.ragged]]\ninput = 'a'\naxis = 0", "batching.ragged[0].axis is 0, expected"),
        (b"[sequence]\nidle_s = 5", "sequence.state is missing; add it"),
        (b"[sequence]\nidle_s = 0\nstate = []", "sequence.idle_s is 0, expected a number"),
        (b"[loop]\nmax_steps = 1\nfeedback = {}", "loop.feedback is a table of 0 keys"),
        (b"warm_up = {}", "warm_up is a table of 0 keys, expected a list of at most 64 entries"),
        (b"[[warm_up]]\nshapes = {x = [0]}", "warm_up[0].shapes.x[0] is 0, expected a whole"),
        (b"[[step]]\nmodel = 'a'\ninputs = {x = 'x'}", "step[0].outputs is missing; add it"),
    ],
)
def test_wrong_value_is_refused_with_file_and_limit(raw: bytes, complaint: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        parse_manifest(raw, FILE)
    assert caught.value.message.startswith(FILE)
    assert complaint in caught.value.message


_KEYS = st.sampled_from(
    ["max_queue", "batching", "ragged", "sequence", "state", "shape", "step", "versions", "latest"]
)
_VALUES = st.recursive(
    st.integers() | st.floats() | st.booleans() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


def _toml(value: object) -> str:
    match value:
        case dict():
            inner = ", ".join(f"{key} = {_toml(one)}" for key, one in value.items())
            return f"{{{inner}}}"
        case list():
            return f"[{', '.join(_toml(one) for one in value)}]"
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(one):08x}" for one in value) + '"'
        case _:
            return repr(value)


@given(st.dictionaries(_KEYS, _VALUES, max_size=3))
def test_any_value_at_any_key_is_refused_or_read(values: dict[str, object]) -> None:
    raw = "\n".join(f"{key} = {_toml(value)}" for key, value in values.items()).encode()
    try:
        parsed = parse_manifest(raw, FILE)
    except ModelInvalid as exc:
        assert FILE in exc.message  # noqa: PT017  # either outcome is right
    else:
        assert isinstance(parsed, Manifest)


LOOP = LoopRules((("x", "y"),), 5)
FIRST = PipelineStep("a", "", (("x", "in"),), (("y", "mid"),))
SECOND = PipelineStep("b", "", (("x", "mid"),), (("y", "out"),))


def ragged(*inputs: RaggedInput) -> Rules:
    return Rules(batching=BatchingRules(ragged=inputs))


def states(*tensors: StateTensor) -> Rules:
    return Rules(sequence=SequenceRules(tensors))


def warm(one: WarmUp) -> Rules:
    return Rules(warm_up=(one,))


def warm_file(name: str) -> Rules:
    return warm(WarmUp(files=(("x", name),)))


def first_with(**changes: Any) -> Rules:
    return Rules(steps=(replace(FIRST, **changes),))


def second_with(*outputs: tuple[str, str]) -> Rules:
    return Rules(steps=(FIRST, replace(SECOND, outputs=outputs)))


STATEFUL = states(StateTensor("h", "a"))
A_MASKED = RaggedInput("a", mask="m")
BOTH_CUT_Y = ragged(*(RaggedInput(name, outputs=("y",)) for name in "ab"))


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (ragged(RaggedInput("a"), RaggedInput("a", 2)), "batching.ragged: input 'a' is there"),
        (ragged(RaggedInput("a"), RaggedInput("b", buckets=(4, 2))), "batching.ragged[1].buckets"),
        (ragged(RaggedInput("a", buckets=(2, 2))), "batching.ragged[0].buckets is [2, 2]"),
        (ragged(A_MASKED, RaggedInput("b", mask="m")), "batching.ragged: mask 'm' is there twice"),
        (ragged(RaggedInput("a", mask="a")), "batching.ragged: 'a' is both an input and a mask"),
        (BOTH_CUT_Y, "batching.ragged: output 'y' along axis 1 is cut twice"),
        (states(StateTensor("h", "a"), StateTensor("h", "b")), "sequence.state: input 'h'"),
        (states(StateTensor("h", "a"), StateTensor("c", "a")), "sequence.state: output 'a'"),
        (states(StateTensor("h", "a", 1, (1,))), "sequence.state[0].axis is 1; the shape [1]"),
        (states(StateTensor("h", "a", 0, (2, 1))), "sequence.state[0].shape is [2, 1]; write 1"),
        (
            replace(STATEFUL, batching=ragged(RaggedInput("h")).batching),
            "sequence.state[0].input 'h'",
        ),
        (replace(STATEFUL, loop=LOOP), "loop: a model with sequences"),
        (replace(ragged(RaggedInput("x")), loop=LOOP), "loop.feedback: input 'x'"),
        (Rules(steps=(FIRST,), loop=LOOP), "loop: a pipeline is not run in a loop"),
        (warm(WarmUp((("x", (1,)),), (("x", "a.npy"),))), "warm_up[0].files: input 'x'"),
        (warm(WarmUp((("x", (2**15, 2**15)),))), "warm_up[0].shapes: an input has 1073741824"),
        *(
            (warm_file(name), f"warm_up[0].files.x is {name!r}; name a .npy file beside")
            for name in ("../a.npy", "a/b.npy", "a\\b.npy", "C:a.npy", ".a.npy", "a.npz", "..", "a")
        ),
        (replace(ragged(RaggedInput("a")), steps=(FIRST,)), "batching.ragged: a pipeline has no"),
        (replace(STATEFUL, steps=(FIRST,)), "sequence: a pipeline keeps no"),
        (Rules(steps=(FIRST, replace(SECOND, model="m"))), "step[1].model is 'm' itself"),
        (first_with(model="../b"), "step[0].model '../b' is no model name"),
        (first_with(inputs=()), "step[0]: maps no inputs or no outputs"),
        (first_with(inputs=(("x", "in"), ("x", "it"))), "step[0].inputs: input 'x' is there twice"),
        (second_with(("y", "m"), ("y", "out")), "step[1].outputs: output 'y' is there twice"),
        (second_with(("y", "mid")), "step[1].outputs: 'mid' is given by step[0] already"),
        (Rules(steps=(SECOND, FIRST)), "step[1].outputs: 'mid' is used by step[0]"),
        (first_with(outputs=(("y", "in"),)), "step[0].outputs: 'in' is used"),
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
        ("[batching]\nmax_rows = 4", "batching: a model with task = 'chat' takes no tensors"),
        ("[text]\nmax_tokens = 4", "text: it means something with task = 'text-embedding' or"),
        ("[[step]]\nmodel = 'a'\ninputs = {a = 'b'}\noutputs = {c = 'd'}", "task: a pipeline has"),
        ("[loop]\nfeedback = {x = 'y'}\nmax_steps = 4", "task: a model that runs in a loop"),
    ],
)
def test_model_that_answers_messages_has_nothing_of_tensors(said: str, problem: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        parse_manifest(f"task = 'chat'\n{said}".encode(), "m.toml")
    assert problem in caught.value.message
