"""What OpenAI's own client gets of chats, texts and responses: `ADDRESS MODEL`. Prints JSON."""

import asyncio
import json
import sys

import openai


async def main(address: str, model: str) -> None:
    """Ask what a program asks, sync and async."""
    url = f"http://{address}/v1"
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    asked = [{"role": "user", "content": "Hi"}]
    whole = client.chat.completions.create(model=model, messages=asked, seed=1)
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=asked,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = client.completions.create(model=model, prompt="Hi", max_tokens=9)
    response = client.responses.create(model=model, input="Hi", instructions="Be kind")
    events = list(client.responses.create(model=model, input="Hi", stream=True))
    told = {
        "whole": [whole.choices[0].message.content, whole.choices[0].finish_reason],
        "usage": whole.usage.model_dump(exclude_none=True),
        "stream": "".join(one.choices[0].delta.content or "" for one in chunks[:-1]),
        "finish": chunks[-2].choices[0].finish_reason,
        "stream_usage": chunks[-1].usage.total_tokens,
        "text": text.choices[0].text,
        "response": [response.output_text, response.status, response.usage.total_tokens],
        "events": [events[0].type, events[-1].type, events[-1].response.output_text],
    }
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as others:
        stream = await others.chat.completions.create(model=model, messages=asked, stream=True)
        told["async"] = "".join([one.choices[0].delta.content or "" async for one in stream])
        async with others.chat.completions.stream(model=model, messages=asked) as helped:
            async for _ in helped:
                pass
            final = await helped.get_final_completion()
            told["helped"] = final.choices[0].message.content
    errors = {}
    for name, options in (
        ("missing", {"model": "nonesuch", "messages": asked}),
        ("hot", {"model": model, "messages": asked, "temperature": 3}),
        ("broken", {"model": "broken", "messages": asked, "stream": True}),
    ):
        try:
            list(client.chat.completions.create(**options))
        except openai.APIError as error:
            errors[name] = [type(error).__name__, error.code, error.param]
    print(json.dumps({**told, "errors": errors}))  # noqa: T201 - what the test reads


asyncio.run(main(*sys.argv[1:]))
