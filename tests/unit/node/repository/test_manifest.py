"""What `capamesh.toml` may say, and how it complains."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.repository.limits import MAX_MANIFEST_BYTES
from capamesh.node.repository.manifest import Manifest, parse_manifest
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
from capamesh.protocol.windows import Windows

FILE = "models/digits/capamesh.toml"
LOOP = b"[loop]\nfeedback = {x = 'y'}\n"


def test_every_key_is_read() -> None:
    raw = b"""
description = "Handwritten digits \xc3\xa9"
providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
allow_cpu_fallback = true
max_queue = 7
instances = 2
pinned = true
idempotent = false
deterministic = false
versions = {specific = [3, 1]}

[batching]
enabled = true
max_rows = 64
max_delay_us = 500

[[batching.ragged]]
input = "ids"
axis = 2
pad = 256
buckets = [16, 64]
mask = "mask"
outputs = ["hidden", "scores"]

[[batching.ragged]]
input = "types"

[sequence]
idle_s = 2
max_bytes = 4096

[[sequence.state]]
input = "h"
output = "h_next"
axis = 1
shape = [2, 1, 128]

[[warm_up]]
shapes = {ids = [4, 64], flag = []}
count = 3

[[warm_up]]
files = {ids = "typical.npy"}

[[warm_up]]
"""
    assert parse_manifest(raw, FILE) == Manifest(
        description="Handwritten digits é",
        providers=("TensorrtExecutionProvider", "CUDAExecutionProvider"),
        allow_cpu_fallback=True,
        max_queue=7,
        rules=Rules(
            batching=BatchingRules(
                is_enabled=True,
                max_rows=64,
                max_delay_us=500,
                ragged=(
                    RaggedInput("ids", 2, 256.0, (16, 64), "mask", ("hidden", "scores")),
                    RaggedInput("types"),
                ),
            ),
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
        ),
    )


def test_window_is_read() -> None:
    raw = b"""
[window]
input = "input"
samples = 512
context = 64
rate_hz = 16000
constants = {sr = 16000}
"""
    windows = Windows("input", 512, 64, 16_000, (("sr", 16_000.0),))
    assert parse_manifest(raw, FILE).rules == Rules(windows=windows)
    assert parse_manifest(b'window = {input = "x", samples = 4}', FILE).rules == Rules(
        windows=Windows("x", 4)
    )


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('input = "x"\nsamples = 0', "window.samples is 0"),
        ('input = "x"\nsamples = 4\nconstants = {sr = nan}', "window.constants"),
    ],
)
def test_window_that_is_none_is_refused(keys: str, said: str) -> None:
    with pytest.raises(ModelInvalid, match=re.escape(said)):
        parse_manifest(f"[window]\n{keys}".encode(), FILE)


def test_steps_of_a_pipeline_are_read_in_their_order() -> None:
    raw = b"""
[[step]]
model = "tokens"
inputs = {text = "question"}
outputs = {ids = "tokens"}

[[step]]
model = "encoder"
version = 3
inputs = {input_ids = "tokens"}
outputs = {last = "vector", pooled = "summary"}
"""
    assert parse_manifest(raw, FILE, "chain").rules == Rules(
        steps=(
            PipelineStep("tokens", "", (("text", "question"),), (("ids", "tokens"),)),
            PipelineStep(
                "encoder",
                "3",
                (("input_ids", "tokens"),),
                (("last", "vector"), ("pooled", "summary")),
            ),
        )
    )


def test_loop_is_read() -> None:
    raw = b"[loop]\nfeedback = {x = 'y', n = 'n_next'}\nmax_steps = 7\nstop = 'done'\nmax_bytes = 4096"
    feedback = (("x", "y"), ("n", "n_next"))
    assert parse_manifest(raw, FILE).rules.loop == LoopRules(feedback, 7, "done", 4096)
    assert parse_manifest(LOOP + b"max_steps = 7", FILE).rules.loop == LoopRules((("x", "y"),), 7)
    assert parse_manifest(b"", FILE).rules.loop is None


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


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (
            b"providers = 'CUDAExecutionProvider'",
            "expected a list of at most 8 entries, each a name",
        ),
        (
            b"providers = ['cuda']",
            "providers[0] is 'cuda', expected a name of at most 80 characters, such as 'CUDA",
        ),
        (b"providers = [" + b"'AExecutionProvider'," * 9 + b"]", "providers is a list of 9"),
        (
            b"providers = ['AExecutionProvider', 'AExecutionProvider']",
            "providers has 'AExecutionProvider' 2 times; name it once",
        ),
        (b"allow_cpu_fallback = 1", "allow_cpu_fallback is 1, expected true or false"),
        (b"max_queue = true", "max_queue is true, expected a whole number from 1 to 1000000"),
        (b"max_queue = 0", "max_queue is 0, expected a whole number from 1 to 1000000"),
        (b"description = ", "is not TOML"),
        (b"#" * (MAX_MANIFEST_BYTES + 1), "has 65537 bytes, at most 65536 are allowed"),
        (b"max_queue" + b".a" * 2000 + b" = 1", "line 1 has a key of over 16 parts; shorten it"),
        (b"max_queue = 2026-11-24", "max_queue is the time 2026-11-24, expected"),
        (b"pinned = 'yes'", "pinned is 'yes', expected true or false"),
        (
            b"versions = {newest = 1}",
            "unknown key versions.newest; allowed keys are latest, specific",
        ),
        (b"versions = {latest = 0}", "versions.latest is 0, expected a whole number from 1"),
        (
            b"versions = {specific = []}",
            "versions.specific is a list of 0, expected a list of 1 to",
        ),
        (b"batching.ragged = [3]", "batching.ragged[0] is 3, expected a table"),
        (b"[[batching.ragged]]\ninput = 'a'\naxis = 0", "batching.ragged[0].axis is 0, expected"),
        (b"[sequence]\nidle_s = 5", "sequence.state is missing; add it"),
        (
            b"[sequence]\nidle_s = 0\nstate = []",
            "sequence.idle_s is 0, expected a number from 0.001",
        ),
        (b"[loop]\nmax_steps = 1\nfeedback = {}", "loop.feedback is a table of 0 keys"),
        (b"warm_up = {}", "warm_up is a table of 0 keys, expected a list of at most 64 entries"),
        (
            b"[[warm_up]]\nshapes = {x = [0]}",
            "warm_up[0].shapes.x[0] is 0, expected a whole number from 1",
        ),
        (b"[[step]]\nmodel = 'a'\ninputs = {x = 'x'}", "step[0].outputs is missing; add it"),
    ],
)
def test_wrong_value_is_refused_with_the_file_the_value_and_the_limit(
    raw: bytes, complaint: str
) -> None:
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
def test_any_value_at_any_key_is_refused_or_read_and_raises_nothing_else(
    values: dict[str, object],
) -> None:
    raw = "\n".join(f"{key} = {_toml(value)}" for key, value in values.items()).encode()
    try:
        parsed = parse_manifest(raw, FILE)
    except ModelInvalid as exc:
        assert FILE in exc.message  # noqa: PT017  # either outcome is right
    else:
        assert isinstance(parsed, Manifest)
