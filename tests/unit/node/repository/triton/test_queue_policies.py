"""What Triton's `config.pbtxt` says of requests that wait, and in which shapes a model has its tensors."""

from __future__ import annotations

import pytest

from capamesh.node.repository.declared import Reshape
from capamesh.node.repository.rules import QueuePolicy, QueueRules
from capamesh.node.repository.triton.config_pbtxt import ModelConfig, parse_config
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype, TensorSpec


def parsed(text: str) -> ModelConfig:
    return parse_config(text.encode(), "m/config.pbtxt", "m")


def queue(text: str) -> QueueRules:
    return parsed(f"max_batch_size: 4 dynamic_batching {{ {text} }}").manifest.rules.queue


def test_default_timeout_and_its_action_are_kept() -> None:
    reject = "default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 5000 }"
    assert queue(reject) == QueueRules(QueuePolicy(5000))
    delay = "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5000 }"
    assert queue(delay) == QueueRules(QueuePolicy(5000, is_delaying=True))
    assert queue("") == QueueRules()


def test_number_that_may_wait_without_priorities_is_the_model_s() -> None:
    config = parsed("dynamic_batching { default_queue_policy { max_queue_size: 7 } }")
    assert config.manifest.max_queue == 7
    assert config.manifest.rules.queue == QueueRules()


def test_each_priority_may_have_a_policy_of_its_own() -> None:
    text = """
      priority_levels: 3 default_priority_level: 2
      default_queue_policy { max_queue_size: 9 allow_timeout_override: true }
      priority_queue_policy { key: 1 value: { default_timeout_microseconds: 100 max_queue_size: 4 } }
    """
    assert queue(text) == QueueRules(
        QueuePolicy(max_queue=9), 3, 2, ((1, QueuePolicy(100, max_queue=4)),)
    )
    config = parsed(f"dynamic_batching {{ {text} }}")
    assert config.manifest.max_queue is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("priority_levels: 2", "default_priority_level: is 0; with 2 levels it is one of them"),
        (
            "priority_levels: 2 default_priority_level: 3",
            "default_priority_level: is 3; with 2 levels it is one of them",
        ),
        ("default_priority_level: 1", "default_priority_level: needs priority_levels"),
        ("priority_levels: 256", "priority_levels is 256, expected a whole number from 0 to 255"),
        (
            "priority_queue_policy { key: 1 value: {} }",
            "priority_queue_policy: key 1 is none of the 0 priority_levels",
        ),
        (
            "priority_levels: 1 default_priority_level: 1 "
            + 2 * "priority_queue_policy { key: 1 value {} } ",
            "priority_queue_policy: key 1 is there twice",
        ),
        (
            "default_queue_policy { timeout_action: HOPE }",
            "timeout_action is HOPE, expected one of REJECT, DELAY",
        ),
    ],
)
def test_priorities_that_contradict_each_other_are_refused(text: str, expected: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        queue(text)
    assert expected in caught.value.message


def test_reshape_is_reported_with_the_batch_axis_on_both_sides() -> None:
    declared = parsed(
        "max_batch_size: 4 "
        "input { name: 'a' data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }"
        "input { name: 'b' data_type: TYPE_FP32 dims: [2] reshape { shape: [2] } }"
        "output { name: 'c' data_type: TYPE_FP32 dims: [-1, 6] reshape { shape: [-1, 2, 3] } }"
    ).declared
    assert declared.inputs[0] == TensorSpec("a", Datatype.FP32, (1,))
    assert declared.reshaped_inputs == (Reshape("a", (-1, 1), (-1,)),)
    assert declared.reshaped_outputs == (Reshape("c", (-1, -1, 6), (-1, -1, 2, 3)),)


def test_reshape_without_a_batch_axis_is_whole() -> None:
    declared = parsed(
        "input { name: 'a' data_type: TYPE_FP32 dims: [3, 2] reshape { shape: [1, 3, 2] } }"
    ).declared
    assert declared.reshaped_inputs == (Reshape("a", (3, 2), (1, 3, 2)),)


def test_gpu_has_the_file_for_its_compute_capability_and_others_the_default() -> None:
    config = parsed(
        "default_model_filename: 'd.onnx' "
        "cc_model_filenames { key: '7.5' value: 't4/model.onnx' } "
        "cc_model_filenames [ { key: '9.0' value: 'h100.onnx' } ]"
    )
    assert config.file_for("7.5") == "t4/model.onnx"
    assert config.file_for("9.0") == "h100.onnx"
    assert config.file_for("8.6") == "d.onnx"
    assert config.file_for("") == "d.onnx"
