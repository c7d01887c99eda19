"""Makes up JSON schemas, each with a finite set of short answers, of the keywords that clients use. Pure.

`python benchmarks/made_up_schemas.py FOLDER [--schemas 20]` has a language model answer so many, and checks each answer with the library jsonschema. Here a
model is asked that knows what JSON is; tests ask one that knows nothing 200 of them.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

WORDS = ("city", "name", "kind", "size", "is_open", "naïve", "a b", 'q"uote', "tags", "when", "x")
PATTERNS = (
    "[a-c]{1,4}",
    "[A-Z][a-z]{0,5}",
    "(yes|no)",
    r"[0-9]{3}-[0-9]{2}",
    r"v\d\.\d",
    "a?b+c{0,2}",
)
FORMATS = ("date", "time", "uuid", "ipv4")
DEEPEST = 2


def schema_of(seed: int) -> dict[str, Any]:
    """Return the schema of `seed`: an object of some fields."""
    rng = random.Random(seed)  # noqa: S311 - not cryptographic
    made = _object(rng, 0)
    if rng.random() < 0.3:
        made["$defs"] = {"shared": _leaf(rng)}
        made["properties"]["shared"] = {"$ref": "#/$defs/shared"}
        made["required"].append("shared")
    return made


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: _any(rng, depth + 1) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }


def _any(rng: random.Random, depth: int) -> dict[str, Any]:
    kind = rng.random()
    if depth < DEEPEST and kind < 0.2:
        return _object(rng, depth)
    if depth < DEEPEST and kind < 0.35:
        least = rng.randint(0, 1)
        return {"type": "array", "items": _leaf(rng), "minItems": least, "maxItems": least + 2}
    if kind < 0.45:
        return {"anyOf": [_leaf(rng), {"type": "null"}]}
    return _leaf(rng)


def _leaf(rng: random.Random) -> dict[str, Any]:
    low = rng.randint(-50, 50)
    leaves: tuple[dict[str, Any], ...] = (
        {"type": "string", "maxLength": rng.randint(0, 8)},
        {"type": "string", "minLength": 2, "maxLength": 5},
        {"type": "string", "pattern": f"^{rng.choice(PATTERNS)}$"},
        {"type": "string", "format": rng.choice(FORMATS)},
        {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 500)},
        {"type": "integer", "exclusiveMinimum": 0, "maximum": 999},
        {"type": "number", "minimum": 0, "maximum": 9, "multipleOf": 0.25},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": rng.sample([1, "one", None, True, 2.5, "é", [1], {"a": 1}], 3)},
        {"const": rng.choice([7, "fixed", False])},
        {"type": ["integer", "boolean"], "minimum": 0, "maximum": 9},
    )
    return dict(rng.choice(leaves))


def main() -> None:
    """Ask, check, and print what does not fit."""
    import jsonschema  # noqa: PLC0415 - those who only make schemas up go without

    from capamesh.node.generation import GenerationEngine, GenerationSettings  # noqa: PLC0415
    from capamesh.node.runtime.decoders.decoder_folder import read_decoder_folder  # noqa: PLC0415
    from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderSlots  # noqa: PLC0415
    from capamesh.node.runtime.text_generation.text_model import TextModel  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--schemas", type=int, default=20)
    options = parser.parse_args()
    read = read_decoder_folder(options.folder)
    length = min(1024, read.config.context)
    text = TextModel(read, read.tokenizer_file.read_bytes(), length=length)
    engine = GenerationEngine(
        slots := DecoderSlots(read, count=8, length=length, threads=2), GenerationSettings()
    )
    told: dict[Any, list[str]] = {}
    ends: dict[Any, str | None] = {}
    for seed in range(options.schemas):
        asked = f"Make up an example of this JSON schema: {json.dumps(schema_of(seed))}"
        body = {
            "messages": [{"role": "user", "content": asked}],
            "guide": {"schema": schema_of(seed)},
            "max_tokens": 400,
        }
        call = text.read(json.dumps(body).encode(), priority=0, deadline_s=None)
        (sequence,) = engine.submit(
            call.requests[0], time.monotonic(), call.new_text, call.new_constraint
        )
        told[sequence] = []
    while (plan := engine.plan(time.monotonic())) is not None:
        began_s = time.monotonic()
        logits = plan.run(slots)
        now_s = time.monotonic()
        engine.stepped(plan, logits, now_s, now_s - began_s)
        for each in engine.take_parts():
            told[each.sequence].append(each.part.text)
            ends[each.sequence] = each.part.finish
    fitting = 0
    for seed, (sequence, pieces) in enumerate(told.items()):
        answer = "".join(pieces)
        try:
            jsonschema.validate(json.loads(answer), schema_of(seed))
        except (ValueError, jsonschema.ValidationError) as exc:
            print(f"schema {seed} ({ends[sequence]}): {answer[:200]!r}: {exc!r:.200}")
        else:
            fitting += 1
    print(f"{fitting} of {options.schemas} answers fit their schemas")
    raise SystemExit(0 if fitting == options.schemas else 1)


if __name__ == "__main__":
    main()
