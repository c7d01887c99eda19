"""What LangChain's client of OpenAI's API gets of a language model: `ADDRESS MODEL`. Prints JSON."""

import asyncio
import json
import sys

import openai
from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI, OpenAI


async def main(address: str, model: str) -> None:
    """Ask what a program asks, sync and async."""
    options = {"base_url": f"http://{address}/v1", "api_key": "none", "max_retries": 0}
    chat = ChatOpenAI(model=model, **options)
    asked = [("system", "Be kind"), ("human", "Hi")]
    whole = chat.invoke(asked, max_tokens=9)
    told = {
        "whole": [whole.content, whole.response_metadata["finish_reason"]],
        "usage": [whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]],
    }
    chunks = list(chat.stream(asked, stream_usage=True))
    told["stream"] = "".join(one.content for one in chunks)
    told["stream_usage"] = [
        one.usage_metadata["total_tokens"] for one in chunks if one.usage_metadata
    ]
    told["async"] = "".join([one.content async for one in chat.astream(asked)])
    told["batch"] = [one.content for one in await chat.abatch([asked, asked])]
    told["text"] = OpenAI(model=model, **options, max_tokens=9).invoke("Hi")
    errors = {}
    for name, wrong in (
        ("missing", ChatOpenAI(model="nonesuch", **options)),
        ("hot", ChatOpenAI(model=model, temperature=3, **options)),
        ("long", ChatOpenAI(model="short", **options)),
    ):
        try:
            wrong.invoke(asked)
        except ContextOverflowError:
            errors[name] = "ContextOverflowError"
        except openai.APIStatusError as error:
            errors[name] = [error.code, error.status_code]
    print(json.dumps({**told, "errors": errors}))  # noqa: T201 - what the test reads


asyncio.run(main(*sys.argv[1:]))
