"""The reader of a `config.pbtxt`'s text, against protobuf's own with Triton's messages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from capamesh.node.repository.triton.fields import ENUMS, MESSAGES, REFUSED, TOP
from capamesh.node.repository.triton.message import Message
from capamesh.node.repository.triton.text import read_text
from capamesh.protocol.errors import ModelInvalid

FILE = "m/config.pbtxt"
NEWER = {"generative_sequence"}
"""Triton's fields that its client does not know."""


def read(text: str) -> Message:
    return read_text(text, FILE)


def theirs(text: str) -> model_config_pb2.ModelConfig:
    config = model_config_pb2.ModelConfig()
    text_format.Parse(text, config)
    return config


def test_every_form_of_a_field_is_read() -> None:
    top = read(
        """
        # a comment { name: 'not this' }
        name: "a" 'b', max_batch_size: 0x10;  version_policy { specific < versions: [1, 2] > }  # another
        input [ { name: 'x', dims: [ -1 ] }, { dims: [] } ] input: < data_type: TYPE_FP32 >
        """
    )
    assert top.text("name", 9) == "ab"
    assert top.integer("max_batch_size", 0, 99) == 16
    policy = top.message("version_policy")
    specific = policy.message("specific")
    assert specific.integers("versions", 1, 9, 9) == (1, 2)
    first, second, third = top.messages("input", 9)
    assert first.text("name", 9) == "x"
    assert first.integers("dims", -1, 9, 9) == (-1,)
    assert second.integers("dims", -1, 9, 9) == ()
    assert third.choice("data_type", {name: name for name in ENUMS["DataType"]}, "") == "TYPE_FP32"


def test_message_knows_the_lines_of_its_fields_those_too_that_are_not_read() -> None:
    top = read("name: 'a'\ninput {\n}\ninput [ {\nformat: FORMAT_NHWC }, {} ] response_cache {}")
    _, second, _ = top.messages("input", 9)
    assert "format" in second
    assert "name" not in second
    assert second.refused("format", "no").message == f"{FILE}, line 5: input[1].format: no"
    assert top.refused("input", "no").message == f"{FILE}, line 2: input: no"
    assert top.refused("response_cache", "no").message == f"{FILE}, line 5: response_cache: no"
    assert top.refused("output", "no").message == f"{FILE}: output: no"


@pytest.mark.parametrize(
    "text",
    [
        "parameters [\n{ key: 'execute_delay_ms' value: { string_value: '3' } } ]",
        "parameters: [ { key: 'a' }, < key: 'b' value < string_value: 'c' 'd' > > ]",
        "parameters { key: 'a' } parameters []",
        "metric_tags [ { key: 'a', value: 'b' } ];",
        "instance_group [ { rate_limiter { resources [ { name: 'R' global: true count: 10 }, {} ]"
        " priority: 2 } gpus: [ 0, 1 ] } ]",
        "optimization: { execution_accelerators { gpu_execution_accelerator: [ { name: 'tensorrt'"
        " parameters { key: 'precision_mode' value: 'FP16' } } ] } }",
        "optimization { priority: PRIORITY_MAX cuda { graph_spec [ { batch_size: 1 input {"
        " key: 'x' value { dim: [ 4 ] } } graph_lower_bound { batch_size: 1 } } ] } }",
        "model_metrics { metric_control: [ { metric_identifier { family: 'f' }"
        " histogram_options { buckets: [ 0.1, 1, 1e3, inf ] } } ] }",
    ],
)
def test_ignored_field_is_read_in_every_form_that_protobuf_reads(text: str) -> None:
    theirs(text)
    assert text.split(maxsplit=1)[0].rstrip(":") in read(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name:\n\n}", "line 3: "),
        ("3: 1", "line 1: "),
        ("[x]: 1", "line 1: extensions and names in brackets are not read; remove them"),
        ("\nplatform [x]: 1", "line 2: "),
        ('\nname: "x\ny"', "line 2: "),
        (r"name: '\xff'", "line 1: "),
        ("max_batch_size: 08", "line 1: "),
        ("max_batch_size: " + "1" * 5000, "line 1: "),
        ("name: 'a'\nname: 'b'", "line 2: "),
        ("version_policy {}\nversion_policy {}", "line 2: "),
        ("input { optional: maybe }", "line 1: "),
        ("input {\ndata_type: TYPE_X }", "line 2: input[0].data_type is TYPE_X, expected"),
        ("input { data_type: 'TYPE_FP32' }", "line 1: "),
        ("c: 1", "line 1: unknown field 'c'; known are backend, cc_model_filenames,"),
        ("input {} input { z: 1 }", "line 1: unknown field 'input[1].z'; known are allow_ragged"),
        ("version_policy { latest { z: 1 } }", "unknown field 'version_policy.latest.z'; known"),
        ("parameters {" * 5_000, "line 1: unknown field 'parameters[0].parameters'; known are key"),
        ("\n" + "{" * 65_000, "line 2: Expected identifier or number, got {"),
        ("\nname: " + "[" * 65_000, "line 2: "),
        (
            "\nmodel_operations [ { any: { thing: 1 } } ]",
            "line 2: model_operations: a model cannot",
        ),
        ("parameters [ { key: 'a' value { colour: 1 } } ]", "field 'parameters[0].value.colour'"),
        ("max_batch_size: 1e400", "line 1: "),
        ("max_batch_size: 18446744073709551616", "line 1: "),
        ("name: §", "line 1: "),
    ],
)
def test_unreadable_text_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        read(text)
    assert caught.value.message.startswith(f"{FILE}, line ")
    assert complaint in caught.value.message
    assert len(caught.value.message) > len(f"{FILE}, line 1: ") + 5


@given(st.text())
def test_string_that_protobuf_wrote_comes_back(value: str) -> None:
    written = text_format.MessageToString(model_config_pb2.ModelConfig(name=value))
    assert read(written).text("name", 4096) == value


@given(st.integers(-(2**31), 2**31 - 1), st.sampled_from(["d", "#x", "#X", "#o"]))
def test_whole_numbers_of_every_base_are_read(number: int, form: str) -> None:
    digits = format(abs(number), form).replace("0o", "0") if number else "0"
    text = f"max_batch_size: {'-' if number < 0 else ''}{digits}"
    assert read(text).integer("max_batch_size", -(2**31), 2**31 - 1) == number


_NAMES = ["name", "input", "dims", "max_batch_size", "all", "version_policy", "x", "TYPE_FP32"]
_VALUES = ["true", "'s'", '"t"', "1", "01", "0x1f", "1.5", " ", "\n", "# c\n"]
_FIELDS = ["name: 'n'", "dims: [1, 2]", "input { dims: 1 }", "max_batch_size: 4"]
_PIECES = st.sampled_from(
    [*_NAMES, *":,;{}[]<>-", *_VALUES, *_FIELDS, "input { data_type: TYPE_INT8 }"]
)


@given(st.lists(_PIECES, max_size=8).map(" ".join))
def test_fields_that_are_read_are_read_as_by_protobuf_with_all_fields(text: str) -> None:
    try:
        config = theirs(text)
    except text_format.ParseError:
        with pytest.raises(ModelInvalid, match=FILE):
            read(text)
    else:
        top = read(text)
        assert top.text("name", 99) == config.name
        assert top.integer("max_batch_size", 0, 99) == config.max_batch_size
        assert [one.integers("dims", 0, 99, 99) for one in top.messages("input", 99)] == [
            tuple(one.dims) for one in config.input
        ]


@given(st.text(max_size=60))
def test_junk_raises_nothing_but_the_documented_error(text: str) -> None:
    try:
        read(text)
    except ModelInvalid as exc:
        assert FILE in exc.message  # noqa: PT017  # either outcome is right


def test_values_over_a_limit_are_refused_with_what_was_expected() -> None:
    top = read("\nmax_batch_size: 10 name: 'long' input { dims: [1, 2, 3] } input {}")
    first, _ = top.messages("input", 2)
    twice = read("cc_model_filenames { key: 'k' } cc_model_filenames { key: 'k' }")
    whole = "expected a whole number from 0 to"
    refusals: list[tuple[Callable[[], object], str]] = [
        (lambda: top.integer("max_batch_size", 0, 9), f"line 2: max_batch_size is 10, {whole} 9"),
        (
            lambda: top.text("name", 3),
            "line 2: name is 'long', expected a quoted text of at most 3",
        ),
        (lambda: top.messages("input", 1), "input: 2 of them, at most 1 are allowed"),
        (lambda: first.integers("dims", 0, 9, 2), r"input\[0\].dims: 3 values, at most 2 are"),
        (lambda: first.integers("dims", 0, 2, 3), rf"input\[0\].dims is 3, {whole} 2"),
        (lambda: [*twice.entries("cc_model_filenames", 9, 9)], "key 'k' is empty or there twice"),
    ]
    for ask, refusal in refusals:
        with pytest.raises(ModelInvalid, match=refusal):
            ask()


def test_fields_are_triton_s() -> None:
    seen: set[str] = set()

    def compare(ours: str, triton: Descriptor) -> None:
        seen.add(ours)
        known = set(MESSAGES[ours]) | set(REFUSED.get(ours, ()))
        assert known - NEWER == set(triton.fields_by_name), ours
        for name, kind in MESSAGES[ours].items():
            field = triton.fields_by_name[name]
            assert kind.endswith("*") is field.is_repeated, name
            one = kind.removesuffix("*")
            if one in MESSAGES:
                compare(one, field.message_type)
            elif one in ENUMS:
                assert field.enum_type is not None
                assert set(ENUMS[one]) <= set(field.enum_type.values_by_name), one

    compare(TOP, model_config_pb2.ModelConfig.DESCRIPTOR)
    assert seen == set(MESSAGES)


def test_node_without_such_a_file_does_not_load_protobuf() -> None:
    code = (
        "import sys, capamesh.node.repository.folder; "
        "sys.exit(any(name.startswith('google.protobuf') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
