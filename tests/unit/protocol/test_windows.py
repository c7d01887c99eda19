"""Windows of samples, against the inputs of the model that they are for."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from capamesh.protocol.tensors import Datatype, TensorSpec
from capamesh.protocol.windows import Windows, constant_data, one_element, windows_problem

SOUND = TensorSpec("input", Datatype.FP32, (-1, -1))
RATE = TensorSpec("sr", Datatype.INT64, ())
WINDOWS = Windows("input", 512, 64, 16_000, (("sr", 16_000),))


def test_windows_that_fit_have_no_problem() -> None:
    assert windows_problem(WINDOWS, [SOUND, RATE]) == ""
    fixed = TensorSpec("input", Datatype.INT16, (1, 1, 576))
    assert windows_problem(WINDOWS, [fixed, RATE]) == ""


@pytest.mark.parametrize(
    ("windows", "inputs", "said"),
    [
        (replace(WINDOWS, input="x"), [SOUND, RATE], "input 'x' is not one of the model's"),
        (WINDOWS, [replace(SOUND, datatype=Datatype.BYTES), RATE], "is text"),
        (WINDOWS, [replace(SOUND, shape=()), RATE], "shape []"),
        (WINDOWS, [replace(SOUND, shape=(-1, 512)), RATE], "must take 576 samples"),
        (WINDOWS, [replace(SOUND, shape=(2, -1)), RATE], "all others one element"),
        (replace(WINDOWS, samples=2**18 + 1), [SOUND, RATE], "at most 1048576 and 16384"),
        (replace(WINDOWS, context=4097), [SOUND, RATE], "16388 bytes"),
        (replace(WINDOWS, constants=()), [SOUND, RATE], "input 'sr' has no constant"),
        (WINDOWS, [SOUND], "the constant 'sr' is not another input"),
        (replace(WINDOWS, constants=(("sr", 0.5),)), [SOUND, RATE], "'sr' is 0.5"),
        (replace(WINDOWS, constants=(("sr", 1e300),)), [SOUND, RATE], "INT64"),
        (WINDOWS, [SOUND, replace(RATE, shape=(2,))], "shape [2]"),
    ],
)
def test_windows_that_do_not_fit_are_told_why(
    windows: Windows, inputs: list[TensorSpec], said: str
) -> None:
    assert said in windows_problem(windows, inputs)


@pytest.mark.parametrize(
    ("datatype", "value", "code"),
    [
        (Datatype.BOOL, 1, "<?"),
        (Datatype.UINT8, 255, "<B"),
        (Datatype.FP16, 0.5, "<e"),
    ],
)
def test_constants_are_raw_bytes_of_their_datatype(
    datatype: Datatype, value: float, code: str
) -> None:
    spec = TensorSpec("c", datatype, (1, -1))
    assert constant_data(spec, value) == struct.pack(code, value)
    assert one_element(spec.shape) == (1, 1)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        (Datatype.UINT8, 256),
        (Datatype.BF16, 1),
        (Datatype.BYTES, 1),
        (Datatype.FP16, 1e6),
        (Datatype.INT8, float("nan")),
    ],
)
def test_constants_beyond_their_datatype_are_none(datatype: Datatype, value: float) -> None:
    assert constant_data(TensorSpec("c", datatype, ()), value) is None
