"""What OpenAI's own client gets of embeddings and models: `ADDRESS MODEL DIMENSIONS`. Prints JSON."""

import asyncio
import json
import sys

import openai


async def main(address: str, model: str, dimensions: str) -> None:
    """Ask what a program asks, sync and async."""
    url = f"http://{address}/v1"
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    texts = ["a cat sat", "dog"]
    found = client.embeddings.create(model=model, input=texts)  # as base64, which it reads itself
    plain = client.embeddings.create(model=model, input=texts, encoding_format="float")
    one = client.embeddings.create(model=model, input="dog", dimensions=int(dimensions))
    tokens = client.embeddings.create(model=model, input=[[2, 5, 3], [2, 3]])
    told = {
        "vectors": [entry.embedding for entry in found.data],
        "plain": [entry.embedding for entry in plain.data],
        "indices": [entry.index for entry in found.data],
        "model": found.model,
        "tokens": [found.usage.prompt_tokens, found.usage.total_tokens],
        "short": len(one.data[0].embedding),
        "of_tokens": [entry.embedding for entry in tokens.data],
        "models": [entry.id for entry in client.models.list()],
        "retrieved": client.models.retrieve(model).id,
    }
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as others:
        again = await others.embeddings.create(model=model, input=texts)
        told["async"] = [entry.embedding for entry in again.data]
        told["async_models"] = [entry.id async for entry in others.models.list()]
    errors = {}
    for name, options in (
        ("missing", {"model": "nonesuch", "input": "a"}),
        ("empty", {"model": model, "input": ""}),
        ("long", {"model": model, "input": "x" * 100_000}),
        ("dimensions", {"model": model, "input": "a", "dimensions": 1000}),
    ):
        try:
            client.embeddings.create(**options)
        except openai.APIStatusError as error:
            errors[name] = [type(error).__name__, error.code, error.param, error.message]
    print(json.dumps({**told, "errors": errors}))  # noqa: T201 - what the test reads


asyncio.run(main(*sys.argv[1:]))
