"""What LiteLLM gets of a language model: `ADDRESS MODEL`. Prints JSON."""

import asyncio
import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet what models cost

import litellm

ASKED = [{"role": "user", "content": "Hi"}]


async def main(address: str, model: str) -> None:
    """Ask what a program asks, sync and async."""
    options = {
        "model": f"openai/{model}",
        "messages": ASKED,
        "api_base": f"http://{address}/v1",
        "api_key": "none",
        "num_retries": 0,
    }
    whole = litellm.completion(**options, seed=1, max_tokens=9)
    told = {
        "whole": [whole.choices[0].message.content, whole.choices[0].finish_reason],
        "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
    }
    chunks = list(
        litellm.completion(**options, stream=True, stream_options={"include_usage": True})
    )
    told["stream"] = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    told["finish"] = next(
        one.choices[0].finish_reason
        for one in reversed(chunks)
        if one.choices and one.choices[0].finish_reason
    )
    stream = await litellm.acompletion(**options, stream=True)
    told["async"] = "".join([one.choices[0].delta.content or "" async for one in stream])
    text = litellm.text_completion(
        model=f"text-completion-openai/{model}",
        prompt="Hi",
        api_base=options["api_base"],
        api_key="none",
        max_tokens=9,
    )
    told["text"] = text.choices[0].text
    errors = {}
    for name, more in (
        ("missing", {"model": "openai/nonesuch"}),
        ("hot", {"temperature": 3}),
        ("long", {"model": "openai/short"}),
    ):
        try:
            litellm.completion(**{**options, **more})
        except litellm.exceptions.APIError as error:
            errors[name] = type(error).__name__
        except Exception as error:  # noqa: BLE001 - which one it is, is what is told
            errors[name] = type(error).__name__
    print(json.dumps({**told, "errors": errors}))  # noqa: T201 - what the test reads


asyncio.run(main(*sys.argv[1:]))
