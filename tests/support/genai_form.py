"""Turns a decoder that takes `seqlens_k` into the form in which onnxruntime-genai's model builder exports: with an attention mask. Writes files."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from capamesh.node.runtime.decoders.decoder_folder import DecoderFolder


def in_genai_form(source: DecoderFolder, folder: Path, *, has_positions: bool) -> DecoderFolder:
    """Write a copy of the decoder that is told its lengths by a mask, and gives logits in the shape [sequences, tokens, vocabulary]."""
    shutil.copytree(source.path, folder)
    model = onnx.load(source.onnx_file)
    graph = model.graph
    told = source.config.inputs
    gone = {told.seqlens_k, told.total_sequence_length, told.rows}
    kept = [each for each in graph.input if each.name not in gone]
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["B", "M"])
    positions = helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["B", "S"])
    del graph.input[:]
    graph.input.extend([*kept, mask, *([positions] if has_positions else [])])
    for name, values in (("one_axis", [1]), ("one", 1), ("zero", 0), ("vocabulary_shape", [-1])):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    (logits,) = (
        graph.output[:1]
        if graph.output[0].name == "logits"
        else [each for each in graph.output if each.name == "logits"]
    )
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == "logits":
                node.output[place] = "flat_logits"
    before = [
        helper.make_node("ReduceSum", ["attention_mask", "one_axis"], ["sums"], keepdims=0),
        helper.make_node("Sub", ["sums", "one"], ["lasts"]),
        helper.make_node("Cast", ["lasts"], [told.seqlens_k], to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["mask_shape"], start=1, end=2),
        helper.make_node(
            "Cast", ["mask_shape"], [told.total_sequence_length], to=TensorProto.INT32
        ),
        helper.make_node("Shape", ["input_ids"], ["ids_shape"]),
        helper.make_node("ReduceProd", ["ids_shape"], ["places"], keepdims=0),
        helper.make_node("Range", ["zero", "places", "one"], [told.rows]),
    ]
    after = [
        helper.make_node("Concat", ["ids_shape", "vocabulary_shape"], ["logits_shape"], axis=0),
        helper.make_node("Reshape", ["flat_logits", "logits_shape"], ["logits"]),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    kind = logits.type.tensor_type.elem_type
    logits.CopyFrom(
        helper.make_tensor_value_info("logits", kind, ["B", "S", source.config.vocabulary])
    )
    onnx.save(model, folder / source.config.onnx_file)
    inputs = dataclasses.replace(
        told,
        attention_mask="attention_mask",
        position_ids="position_ids" if has_positions else "",
        seqlens_k="",
        total_sequence_length="",
        rows="",
    )
    config = dataclasses.replace(source.config, inputs=inputs)
    return dataclasses.replace(source, path=folder, config=config)
