"""What Ollama's own client gets of a language model: `ADDRESS MODEL`. Prints JSON."""

import asyncio
import json
import sys

import ollama


async def main(address: str, model: str) -> None:
    """Ask what a program asks, sync and async."""
    client = ollama.Client(host=f"http://{address}")
    asked = [{"role": "user", "content": "Hi"}]
    whole = client.chat(model=model, messages=asked, options={"num_predict": 9, "seed": 1})
    chunks = list(client.chat(model=model, messages=asked, stream=True))
    text = client.generate(model=model, prompt="Hi")
    texts = list(client.generate(model=model, prompt="Hi", stream=True))
    told = {
        "whole": [whole.message.content, whole.done_reason, whole.done],
        "usage": [whole.prompt_eval_count, whole.eval_count],
        "stream": "".join(one.message.content or "" for one in chunks),
        "end": [chunks[-1].done, chunks[-1].done_reason],
        "text": text.response,
        "texts": "".join(one.response for one in texts),
        "models": [one.model for one in client.list().models],
    }
    others = ollama.AsyncClient(host=f"http://{address}")
    stream = await others.chat(model=model, messages=asked, stream=True)
    told["async"] = "".join([one.message.content or "" async for one in stream])
    errors = {}
    for name, more in (
        ("missing", {"model": "nonesuch"}),
        ("hot", {"options": {"temperature": 3}}),
    ):
        try:
            client.chat(**{"model": model, "messages": asked, **more})
        except ollama.ResponseError as error:
            errors[name] = [error.status_code, error.error]
    print(json.dumps({**told, "errors": errors}))  # noqa: T201 - what the test reads


asyncio.run(main(*sys.argv[1:]))
