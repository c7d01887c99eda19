"""The reader of protobuf's text format, against protobuf's own with Triton's messages."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from capamesh.node.repository.triton.text_fields import Fields
from capamesh.node.repository.triton.text_format import (
    MAX_DEPTH,
    Field,
    Message,
    Scalar,
    ScalarKind,
    parse_text,
)
from capamesh.protocol.errors import ModelInvalid

FILE = "m/config.pbtxt"


def fields(text: str, *allowed: str) -> Fields:
    return Fields(parse_text(text, FILE), allowed or ("a", "b"), FILE)


def theirs(text: str) -> model_config_pb2.ModelConfig:
    config = model_config_pb2.ModelConfig()
    text_format.Parse(text, config)
    return config


def test_every_form_of_a_field_is_read() -> None:
    text = """
    # a comment
    a: 1, b: -2.5;  c { d: TRUE } e: < f: "x" 'y' >   # another
    g: [1, 2] h [ {}, { i: nan } ] j: []
    """
    assert parse_text(text, FILE) == Message(
        (
            Field("a", (Scalar(ScalarKind.NUMBER, "1", 3),), is_list=False, line=3),
            Field("b", (Scalar(ScalarKind.NUMBER, "-2.5", 3),), is_list=False, line=3),
            Field(
                "c",
                (
                    Message(
                        (Field("d", (Scalar(ScalarKind.WORD, "TRUE", 3),), is_list=False, line=3),),
                        3,
                    ),
                ),
                is_list=False,
                line=3,
            ),
            Field(
                "e",
                (
                    Message(
                        (Field("f", (Scalar(ScalarKind.STRING, "xy", 3),), is_list=False, line=3),),
                        3,
                    ),
                ),
                is_list=False,
                line=3,
            ),
            Field(
                "g",
                (Scalar(ScalarKind.NUMBER, "1", 4), Scalar(ScalarKind.NUMBER, "2", 4)),
                is_list=True,
                line=4,
            ),
            Field(
                "h",
                (
                    Message((), 4),
                    Message(
                        (Field("i", (Scalar(ScalarKind.WORD, "nan", 4),), is_list=False, line=4),),
                        4,
                    ),
                ),
                is_list=True,
                line=4,
            ),
            Field("j", (), is_list=True, line=4),
        ),
        3,
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a", "line 1: expected ':' or '{', found the end of the file"),
        ("a 1", "line 1: expected ':' or '{', found '1'"),
        ("a:\n\n}", "line 3: expected a value, found '}'"),
        ("a {", "line 1: expected '}', found the end of the file"),
        ("a { >", "line 1: expected a field's name, found '>'"),
        ("a: 1 }", "line 1: expected a field's name, found '}'"),
        ("a: [1 2]", "line 1: expected ',' or ']', found '2'"),
        ("a: [1,]", "line 1: expected a value, found ']'"),
        ("a [1]", "line 1: expected ':' or '{', found '1'"),
        ("a: 1,, b: 2", "line 1: expected a field's name, found ','"),
        ("3: 1", "line 1: expected a field's name, found '3'"),
        ("[x]: 1", "line 1: expected a field's name, found '['"),
        ("a: 1x", "line 1: cannot read '1x'"),
        ("a: -'x'", "line 1: expected a value, found \"'x'\""),
        ('a: "x', "line 1: cannot read '\"x'"),
        ('\na: "x\ny"', "line 2: cannot read '\"x'"),
        (r"a: '\q'", r"line 1: unknown escape '\\q'"),
        (r"a: '\777'", r"line 1: unknown escape '\\777'"),
        (r"a: '\ud800'", r"line 1: unknown escape '\\ud800'"),
        (r"a: '\U00110000'", r"line 1: unknown escape '\\U00110000'"),
        (r"a: '\xff'", "line 1: a string is not UTF-8"),
        ("a: " + "x" * 4097, "line 1: a value of 4097 characters, at most 4096 are allowed"),
        ("a {" * (MAX_DEPTH + 1) + "}" * (MAX_DEPTH + 1), "line 1: messages nest deeper than 32"),
        ("a: §", "line 1: cannot read '§'"),
    ],
)
def test_what_is_no_text_format_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        parse_text(text, FILE)
    assert caught.value.message == f"{FILE}, {complaint}"


def test_the_deepest_nesting_allowed_is_read() -> None:
    parse_text("a {" * MAX_DEPTH + "}" * MAX_DEPTH, FILE)


@given(st.text())
def test_a_string_that_protobuf_wrote_comes_back(value: str) -> None:
    written = text_format.MessageToString(model_config_pb2.ModelConfig(name=value))
    assert fields(written, "name").text("name", 4096) == value


def test_escapes_that_protobufs_own_python_misreads_mean_what_the_specification_says() -> None:
    assert fields(r"a: '\?\x9\X4z'").text("a", 9) == "?\t\x04z"


_ESCAPES = st.sampled_from(
    [
        r"\a",
        r"\b",
        r"\f",
        r"\n",
        r"\r",
        r"\t",
        r"\v",
        r"\\",
        r"\'",
        r"\"",
        r"\0",
        r"\101",
        r"\1014",
        r"\x41",
        r"\303\251",
        r"\xc3\xa9",
        r"\u00e9",
        r"\U0001F600",
    ]
)


@given(st.lists(_ESCAPES | st.sampled_from("ab0é'"), max_size=8).map("".join))
def test_escapes_mean_what_they_mean_to_protobuf(body: str) -> None:
    text = f'name: "{body}"'
    assert fields(text, "name").text("name", 4096) == theirs(text).name


@given(st.integers(-(2**31), 2**31 - 1), st.sampled_from(["d", "#x", "#X", "#o"]))
def test_whole_numbers_of_every_base_mean_what_they_mean_to_protobuf(
    number: int, form: str
) -> None:
    digits = format(abs(number), form).replace("0o", "0") if number else "0"
    text = f"max_batch_size: {'-' if number < 0 else ''}{digits}"
    ours = fields(text, "max_batch_size").integer("max_batch_size", -(2**31), 2**31 - 1)
    assert ours == theirs(text).max_batch_size == number


_PIECES = st.sampled_from(
    [
        "name",
        "input",
        "dims",
        "max_batch_size",
        "all",
        "version_policy",
        "x",
        "TYPE_FP32",
        "true",
        ":",
        ",",
        ";",
        "{",
        "}",
        "[",
        "]",
        "<",
        ">",
        "-",
        " ",
        "\n",
        "# c\n",
        "'s'",
        '"t"',
        "1",
        "01",
        "0x1f",
        "1.5",
        "name: 'n'",
        "dims: [1, 2]",
        "input { dims: 1 }",
        "max_batch_size: 4",
    ]
)


@given(st.lists(_PIECES, max_size=8).map(" ".join))
def test_what_protobuf_reads_is_read(text: str) -> None:
    try:
        theirs(text)
    except text_format.ParseError:
        try:
            parse_text(text, FILE)
        except ModelInvalid as exc:
            assert FILE in exc.message  # noqa: PT017  # without a schema either outcome is right
    else:
        parse_text(text, FILE)


@given(st.text(max_size=60))
def test_junk_raises_nothing_but_the_documented_error(text: str) -> None:
    try:
        parse_text(text, FILE)
    except ModelInvalid as exc:
        assert FILE in exc.message  # noqa: PT017  # either outcome is right


def test_missing_fields_are_empty_as_in_protobuf() -> None:
    none = fields("")
    assert none.text("a", 9) == ""
    assert none.integer("a", 1, 9) == 0
    assert none.integers("a", 1, 9, 9) == ()
    assert not none.flag("a")
    assert none.message("a", ()) is None
    assert none.messages("a", (), 9) == []
    assert none.choice("a", {"X": 1}, 2) == 2


def test_repeated_fields_add_up_over_occurrences_and_lists() -> None:
    assert fields("a: 1 a: [2, 3] a: 4").integers("a", 1, 9, 9) == (1, 2, 3, 4)
    assert len(fields("a {} a [{}, {}]").messages("a", (), 9)) == 3


@pytest.mark.parametrize("word", ["true", "True", "t", "1"])
def test_every_spelling_of_true_is_true(word: str) -> None:
    assert fields(f"a: {word}").flag("a")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("c: 1", "line 1: unknown field 'c'; known are a, b"),
        ("a: 1 a: 2", "line 1: a: is no list; give it once and without brackets"),
        ("a: [1]", "line 1: a: is no list; give it once and without brackets"),
        ("\na: '1'", "line 2: a is '1', expected a whole number from 0 to 9"),
        ("a: 10", "line 1: a is 10, expected a whole number from 0 to 9"),
        ("a: -1", "line 1: a is -1, expected a whole number from 0 to 9"),
        ("a: 1.0", "line 1: a is 1.0, expected a whole number from 0 to 9"),
        ("a: 08", "line 1: a is 08, expected a whole number from 0 to 9"),
        ("a: " + "1" * 4096, f"line 1: a is {'1' * 80}, expected a whole number from 0 to 9"),
        ("a: x", "line 1: a is x, expected a whole number from 0 to 9"),
        ("a {}", "line 1: a is a message, expected a value"),
    ],
)
def test_a_wrong_number_is_refused_with_its_line_and_path(text: str, complaint: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        fields(text).integer("a", 0, 9)
    assert caught.value.message == f"{FILE}, {complaint}"


def test_other_wrong_values_are_refused_with_what_was_expected() -> None:
    with pytest.raises(ModelInvalid, match="a is x, expected a quoted text of at most 3"):
        fields("a: x").text("a", 3)
    with pytest.raises(ModelInvalid, match="a is 'long', expected a quoted text of at most 3"):
        fields("a: 'long'").text("a", 3)
    with pytest.raises(ModelInvalid, match="a is 'true', expected true or false"):
        fields("a: 'true'").flag("a")
    with pytest.raises(ModelInvalid, match="a is Z, expected one of X, Y"):
        fields("a: Z").choice("a", {"X": 1, "Y": 2}, 1)
    with pytest.raises(ModelInvalid, match="a is 1, expected a message in braces"):
        fields("a: 1").message("a", ())
    with pytest.raises(ModelInvalid, match="a: 3 values, at most 2 are allowed"):
        fields("a: [1, 2, 3]").integers("a", 0, 9, 2)
    with pytest.raises(ModelInvalid, match="a is a message, expected a value"):
        fields("a: [{}]").integers("a", 0, 9, 2)
    with pytest.raises(ModelInvalid, match="a: 3 of them, at most 2 are allowed"):
        fields("a [{}, {}, {}]").messages("a", (), 2)
    with pytest.raises(ModelInvalid, match=r"unknown field 'a\[1\].z'"):
        fields("a {} a { z: 1 }").messages("a", (), 2)
    with pytest.raises(ModelInvalid, match="a: key 'k' is empty or there twice"):
        list(fields("a { key: 'k' } a { key: 'k' }").entries("a", 9, 9))
