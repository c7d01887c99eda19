"""Greedy answers of Hugging Face's transformers, for `same_as_transformers.py`: the file of a model, and prompts on standard input. Prints JSON."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLD = 20
"""The likeliest tokens of each step that are told, with their scores."""


def main(file: Path) -> None:
    """Answer each chat, of which standard input has the messages, with so many tokens; tell the prompt's tokens too."""
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    source = {"gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
    found = []
    for messages in asked["chats"]:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, past, steps = torch.tensor([prompt]), None, []
        for _ in range(asked["tokens"]):
            with torch.no_grad():
                out = model(ids, past_key_values=past, use_cache=True)
            past = out.past_key_values
            top = torch.topk(out.logits[0, -1].float(), TOLD)
            steps.append(list(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
            ids = top.indices[:1].reshape(1, 1)
        found.append({"prompt": prompt, "steps": steps})
        print(f"\r{len(found)} of {len(asked['chats'])}", end="", file=sys.stderr, flush=True)
    print(json.dumps(found))


main(Path(sys.argv[1]))
