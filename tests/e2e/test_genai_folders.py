"""Folders in the form of onnxruntime-genai's model builder, of another architecture than Llama, from the import to the chat through a router."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np
import onnx
import pytest
import pytest_asyncio
from commands import run_json
from onnx import TensorProto, helper, numpy_helper
from tiny_llama import (
    CONTEXT,
    END,
    FEED_FORWARD,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    SPECIAL,
    TEMPLATE,
    VOCABULARY,
    rotated,
    tokenizer,
)

from capamesh.cli.local_cluster import LocalCluster

WINDOW: Final = 16
"""The tokens that layers with even numbers look at, the last one among them."""
SCORE_BOUND: Final = 20.0
LOGIT_BOUND: Final = 30.0
EPSILON: Final = 1e-6
BLOCK: Final = 32
"""The numbers of a matrix of 4 bits that share a scale."""
SCALE: Final = HEAD_SIZE**-0.5
NORMS: Final = ("input", "post_attention", "pre_feedforward", "post_feedforward")


@cache
def weights() -> dict[str, np.ndarray]:
    """Return all weights, f32 [in, out]; tokens that are no ASCII are hardly ever the most likely."""
    rng = np.random.default_rng(7)

    def matrix(rows: int, width: int) -> np.ndarray:
        return (rng.standard_normal((rows, width)) * 1.5 / np.sqrt(rows)).astype(np.float32)

    embedding = rng.standard_normal((VOCABULARY, HIDDEN)).astype(np.float32) / np.float32(4)
    for number in range(VOCABULARY):
        if number < len(SPECIAL) or not tokenizer().decode([number]).isprintable():
            embedding[number] /= 100
    made = {"embedding": embedding, "norm": norm_gain(rng)}
    for layer in range(LAYERS):
        made |= {f"{layer}.{name}": norm_gain(rng) for name in NORMS}
        made |= {
            f"{layer}.qkv": matrix(HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD_SIZE),
            f"{layer}.out": matrix(HEADS * HEAD_SIZE, HIDDEN),
            f"{layer}.gate": matrix(HIDDEN, FEED_FORWARD),
            f"{layer}.up": matrix(HIDDEN, FEED_FORWARD),
            f"{layer}.down": matrix(FEED_FORWARD, HIDDEN),
        }
    return made


def norm_gain(rng: np.random.Generator) -> np.ndarray:
    return (1 + 0.1 * rng.standard_normal(HIDDEN)).astype(np.float32)


def write_folder(folder: Path, *, has_four_bits: bool = False) -> None:
    """Write the model's version as the builder leaves it, with weights in 32 bits, or in 4."""
    folder.mkdir(parents=True, exist_ok=True)
    made = in_four_bits(decoder()) if has_four_bits else decoder()
    onnx.save(made, folder / "model.onnx")
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    (folder / "genai_config.json").write_text(json.dumps(settings(), indent=4))


def settings() -> dict[str, object]:
    """Return what the builder says of it, with names of inputs that the decoder does without."""
    inputs = {name: name for name in ("input_ids", "attention_mask", "position_ids")}
    past = {f"past_{part}_names": f"past_key_values.%d.{part}" for part in ("key", "value")}
    present = {f"present_{part}_names": f"present.%d.{part}" for part in ("key", "value")}
    layers = [layer for layer in range(LAYERS) if layer % 2 == 0]
    window = {"window_size": WINDOW, "slide_key_value_cache": False, "slide_inputs": False}
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": HEAD_SIZE,
        "hidden_size": HIDDEN,
        "inputs": inputs | past,
        "outputs": {"logits": "logits"} | present,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "sliding_window": {**window, "layers": layers, "cache_slack": 0},
    }
    tokens = {"bos_token_id": 0, "eos_token_id": [1, 3], "pad_token_id": 1}
    model = {"type": "gemma2", "vocab_size": VOCABULARY, "context_length": CONTEXT}
    search = {"do_sample": False, "max_length": CONTEXT, "past_present_share_buffer": False}
    return {"model": {**tokens, **model, "decoder": decoder}, "search": search}


def decoder() -> onnx.ModelProto:
    """Return the graph with its weights, node by node as the builder makes them."""
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, inputs: list[str], *outputs: str, domain: str = "", **said: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [*outputs], domain=domain, **said))
        return outputs[0]

    ours = "com.microsoft"
    add("ReduceSum", ["attention_mask", "last_axis"], "lengths", keepdims=0)
    add("Sub", ["lengths", "last_axis"], "lengths_less_one")
    add("Cast", ["lengths_less_one"], "seqlens_k", to=TensorProto.INT32)
    add("Shape", ["attention_mask"], "mask_shape")
    add("Gather", ["mask_shape", "one"], "total_i64", axis=0)
    add("Cast", ["total_i64"], "total", to=TensorProto.INT32)
    add("Gather", ["embedding", "input_ids"], "tokens")
    stream = add("Mul", ["tokens", "embedding_scale"], "scaled")
    kinds = {"axis": -1, "epsilon": EPSILON, "stash_type": 1}
    normed = add("SimplifiedLayerNormalization", [stream, "0.input"], "normed.0", **kinds)
    for layer in range(LAYERS):
        of = f"{layer}."
        add("MatMul", [normed, of + "qkv"], of + "qkv_made")
        past, present = (
            [f"{name}.{layer}.{part}" for part in ("key", "value")]
            for name in ("past_key_values", "present")
        )
        add(
            "GroupQueryAttention",
            [of + "qkv_made", "", "", *past, "seqlens_k", "total", "cos_cache", "sin_cache"],
            of + "attended",
            *present,
            domain=ours,
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            scale=SCALE,
            local_window_size=-1 if layer % 2 else WINDOW,
            softcap=SCORE_BOUND,
            do_rotary=1,
            rotary_interleaved=0,
        )
        add("MatMul", [of + "attended", of + "out"], of + "projected")
        gain = of + "post_attention"
        add("SimplifiedLayerNormalization", [of + "projected", gain], of + "added", **kinds)
        stream = skipped(nodes, stream, of + "added", of + "pre_feedforward", of + "wide")
        add("MatMul", [of + "wide", of + "gate"], of + "gated")
        add("MatMul", [of + "wide", of + "up"], of + "upped")
        add("Gelu", [of + "gated"], of + "opened", approximate="tanh")
        add("Mul", [of + "opened", of + "upped"], of + "both")
        add("MatMul", [of + "both", of + "down"], of + "narrow")
        gain = of + "post_feedforward"
        add("SimplifiedLayerNormalization", [of + "narrow", gain], of + "fed", **kinds)
        gain = "norm" if layer == LAYERS - 1 else f"{layer + 1}.input"
        normed = f"normed.{layer + 1}"
        stream = skipped(nodes, stream, of + "fed", gain, normed)
    add("Gather", [normed, "minus_one"], "last", axis=1)
    add("Unsqueeze", ["last", "last_axis"], "last_alone")
    add("Transpose", ["embedding"], "head", perm=[1, 0])
    add("MatMul", ["last_alone", "head"], "unbounded")
    add("Div", ["unbounded", "logit_bound"], "parts")
    add("Tanh", ["parts"], "bounded")
    add("Mul", ["bounded", "logit_bound"], "logits")
    half = HEAD_SIZE // 2
    angles = np.outer(np.arange(CONTEXT), 10_000.0 ** (-np.arange(half) / half))
    constants = {
        "last_axis": np.array([1], np.int64),
        "one": np.array(1, np.int64),
        "minus_one": np.array(-1, np.int64),
        "embedding_scale": np.array(HIDDEN**0.5, np.float32),
        "logit_bound": np.array(LOGIT_BOUND, np.float32),
        "cos_cache": np.cos(angles).astype(np.float32),
        "sin_cache": np.sin(angles).astype(np.float32),
    }
    of_cache = ["batch_size", KV_HEADS, "past_sequence_length", HEAD_SIZE]
    whole = ["batch_size", KV_HEADS, "total_sequence_length", HEAD_SIZE]
    value = helper.make_tensor_value_info
    pairs = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [
            value("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
            value("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]),
            *(value(f"past_key_values.{each}", TensorProto.FLOAT, of_cache) for each in pairs),
        ],
        [
            value("logits", TensorProto.FLOAT, ["batch_size", 1, VOCABULARY]),
            *(value(f"present.{each}", TensorProto.FLOAT, whole) for each in pairs),
        ],
        [numpy_helper.from_array(array, name) for name, array in (weights() | constants).items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(ours, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def in_four_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the decoder with matrices of 4 bits, as the builder makes them with `-p int4` and an accuracy level."""
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in arrays:
            continue
        name = node.input[1]
        across, width = arrays[name].shape
        blocks = arrays.pop(name).T.reshape(width, across // BLOCK, BLOCK)
        scales = np.abs(blocks).max(-1, keepdims=True) / 7
        codes = np.clip(np.round(blocks / scales) + 8, 0, 15).astype(np.uint8)
        arrays[f"{name}_Q4"] = codes[..., ::2] | codes[..., 1::2] << 4
        arrays[f"{name}_scales"] = scales.astype(np.float32).reshape(width, -1)
        said = {"K": across, "N": width, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
        inputs = [node.input[0], f"{name}_Q4", f"{name}_scales"]
        domain = "com.microsoft"
        made = helper.make_node("MatMulNBits", inputs, [*node.output], domain=domain, **said)
        node.CopyFrom(made)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    return model


def skipped(nodes: list[onnx.NodeProto], stream: str, added: str, gain: str, normed: str) -> str:
    """Add what is added to the stream and normed at once; return the stream after it."""
    outputs = [normed, "", "", f"{normed}.stream"]
    kind, domain = "SkipSimplifiedLayerNormalization", "com.microsoft"
    inputs = [stream, added, gain]
    nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, epsilon=EPSILON))
    return outputs[3]


def logits(ids: list[int]) -> np.ndarray:
    """Return the logits after the last token, f64 [VOCABULARY], by a plain loop over layers, heads and positions."""
    part = {name: array.astype(np.float64) for name, array in weights().items()}
    x = part["embedding"][ids] * HIDDEN**0.5
    for layer in range(LAYERS):
        of = f"{layer}."
        made = norm(x, part[of + "input"]) @ part[of + "qkv"]
        heads = made.reshape(len(ids), HEADS + 2 * KV_HEADS, HEAD_SIZE)
        out = np.zeros((len(ids), HEADS, HEAD_SIZE))
        for head in range(HEADS):
            of_keys = HEADS + head * KV_HEADS // HEADS
            keys = turned(heads[:, of_keys])
            for pos, query in enumerate(turned(heads[:, head])):
                first = 0 if layer % 2 else max(0, pos + 1 - WINDOW)
                scores = keys[first : pos + 1] @ query * SCALE
                shares = np.exp(SCORE_BOUND * np.tanh(scores / SCORE_BOUND))
                out[pos, head] = shares / shares.sum() @ heads[first : pos + 1, of_keys + KV_HEADS]
        attended = out.reshape(len(ids), -1) @ part[of + "out"]
        x = x + norm(attended, part[of + "post_attention"])
        wide = norm(x, part[of + "pre_feedforward"])
        gate = wide @ part[of + "gate"]
        opened = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        x = x + norm(
            opened * (wide @ part[of + "up"]) @ part[of + "down"], part[of + "post_feedforward"]
        )
    last = norm(x[-1], part["norm"]) @ part["embedding"].T
    return LOGIT_BOUND * np.tanh(last / LOGIT_BOUND)


def turned(rows: np.ndarray) -> np.ndarray:
    """Return queries or keys, [tokens, HEAD_SIZE], turned by their positions."""
    return np.array([rotated(row, pos, np.ones(HEAD_SIZE // 2)) for pos, row in enumerate(rows)])


def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * gain


def answer(ids: list[int], count: int) -> str:
    """Return the text of the most likely tokens after a prompt."""
    made = list(ids)
    for _ in range(count):
        made.append(int(logits(made).argmax()))
    return str(tokenizer().decode(made[len(ids) :]))


TOKENS = 24
LONG = "What do people remember of the places that they leave, when the lamps are still on?"
FOUR_BITS = "gemma-int4"


@pytest.fixture(scope="session")
def genai_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of models that were imported: as the builder writes them, in 32 bits and in 4."""
    folder = tmp_path_factory.mktemp("genai")
    for name in ("gemma", FOUR_BITS):
        write_folder(folder / name, has_four_bits=name == FOUR_BITS)
        run_json("model", "import-llm", folder / name, "--to", folder / "models")
    return folder / "models"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def genai_cluster(
    genai_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path_factory.mktemp("cluster"), genai_models, nodes=1) as running:
        await running.wait_routable(1)
        yield running


async def chat(cluster: LocalCluster, messages: list[dict[str, str]], model: str = "gemma") -> str:
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": TOKENS}
    body |= {"temperature": 0, "ignore_eos": True}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{cluster.http_url}/v1/chat/completions", json=body) as answer,
    ):
        found = await answer.json()
        assert answer.status == 200, found
    assert found["usage"]["completion_tokens"] == TOKENS
    return str(found["choices"][0]["message"]["content"])


def expected(messages: list[dict[str, str]]) -> str:
    """Return the answer by the plain loop over the prompt that the template makes."""
    turns = [f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages]
    prompt = "".join(turns) + "<|im_start|>assistant\n"
    return answer(tokenizer().encode(prompt).ids, TOKENS)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def test_other_architecture_answers_as_it_would_by_a_plain_loop_whoever_is_beside(
    genai_cluster: LocalCluster,
) -> None:
    first = await chat(genai_cluster, [user(LONG)])
    assert first == expected([user(LONG)])
    # the next turn begins where the last one ended, in the slot or in one that is copied
    turns = [user(LONG), {"role": "assistant", "content": first}, user("Which lamps?")]
    assert await chat(genai_cluster, turns) == expected(turns)
    asked = [[user(LONG[:length])] for length in (1, 20, 40, 60, len(LONG))]
    found = await asyncio.gather(*(chat(genai_cluster, each) for each in asked))
    assert found == [expected(each) for each in asked]
    assert len({*found}) > 1


async def test_four_bits_with_an_accuracy_level_answer_whoever_is_beside(
    genai_cluster: LocalCluster,
) -> None:
    asked = [[user(LONG[:length])] for length in (20, len(LONG))]
    alone = [await chat(genai_cluster, each, FOUR_BITS) for each in asked]
    assert len({*alone}) == 2
    beside = await asyncio.gather(*(chat(genai_cluster, each, FOUR_BITS) for each in asked))
    assert beside == alone
