"""What OpenAI's own client gets of a language model: `ADDRESS MODEL FOLDER`. Prints JSON."""

import asyncio
import json
import pathlib
import sys
import time

import openai

ASKED = [{"role": "user", "content": "What do people remember?"}]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {
                "type": "object",
                "properties": {"kind": {"enum": ["boat", "tide"]}, "deep": {"type": "boolean"}},
                "required": ["kind", "deep"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
PIECES = 2
"""A call that is streamed comes in more."""
NAMED = {"type": "function", "function": {"name": "look_up"}}


def calls(client: openai.OpenAI, model: str) -> dict[str, object]:
    """Have tools called: whole, streamed, by the newer route, and with the tool's answer in the next turn."""
    options = {
        "model": model,
        "messages": ASKED,
        "max_tokens": 200,
        "temperature": 0,
        "tools": TOOLS,
        "tool_choice": NAMED,
    }
    choice = client.chat.completions.create(**options).choices[0]
    (call,) = choice.message.tool_calls
    told = {
        "finish": choice.finish_reason,
        "content": choice.message.content,
        "call": [call.type, call.function.name, call.function.arguments],
    }
    # a router that stood still meanwhile has the tokens of so short an answer at once: it is asked again
    for _ in range(20):
        stream = client.chat.completions.create(**options, stream=True)
        chunks = [each.choices[0] for each in stream]
        deltas = [one for each in chunks for one in each.delta.tool_calls or ()]
        if len(deltas) > PIECES:
            break
    told["streamed"] = {
        "finish": chunks[-1].finish_reason,
        "ids": len({each.id for each in deltas if each.id}),
        "names": [each.function.name for each in deltas if each.function.name],
        "indexes": sorted({each.index for each in deltas}),
        "pieces": len(deltas),
        "arguments": "".join(each.function.arguments for each in deltas),
        "content": "".join(each.delta.content or "" for each in chunks),
    }
    answer = {"role": "tool", "tool_call_id": call.id, "content": "high water at six"}
    again = {**options, "messages": [*ASKED, choice.message, answer], "tool_choice": "none"}
    told["next"] = client.chat.completions.create(**again).choices[0].message.tool_calls
    tools = [{"type": "function", **each["function"]} for each in TOOLS]
    response = client.responses.create(
        model=model, input="Hi", max_output_tokens=200, temperature=0, tools=tools, tool_choice="required",
        parallel_tool_calls=False,
    )  # fmt: skip
    (item,) = response.output
    told["response"] = [item.type, item.name, item.arguments, response.status]
    try:
        client.chat.completions.create(
            **{**options, "tool_choice": {"type": "function", "function": {"name": "sail"}}}
        )
    except openai.APIStatusError as error:
        told["unknown"] = [error.param, error.message]
    return told


LONG = {"messages": [{"role": "user", "content": "word " * 4000}]}
ENDED = ("completed", "failed", "expired", "cancelled")
LIMIT_S = 100.0


def said(body: object) -> list[object]:
    found = openai.types.chat.ChatCompletion.model_validate(body)
    return [found.choices[0].message.content, found.usage.total_tokens]


def batch(client: openai.OpenAI, model: str, folder: str) -> dict[str, object]:
    """Have chats answered in the background, and by themselves."""
    url = "/v1/chat/completions"
    bodies = {
        f"r{at}": {
            "model": model,
            "messages": [{"role": "user", "content": f"What is the number {at}?"}],
            "temperature": 0,
            "max_tokens": 8,
        }
        for at in range(12)
    }
    lines = bodies | {"long": bodies["r0"] | LONG}
    path = pathlib.Path(folder) / "chats.jsonl"
    path.write_text(
        "".join(
            json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body}) + "\n"
            for name, body in lines.items()
        )
    )
    file = client.files.create(file=path, purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h")
    until_s = time.monotonic() + LIMIT_S
    while (done := client.batches.retrieve(made.id)).status not in ENDED:
        if time.monotonic() > until_s:
            raise SystemExit(f"the batch is still {done.status}")
        time.sleep(0.2)
    told = [json.loads(line) for line in client.files.content(done.output_file_id).iter_lines()]
    (error,) = map(json.loads, client.files.content(done.error_file_id).iter_lines())
    refused = error["response"]
    counts = done.request_counts
    return {
        "status": done.status,
        "counts": [counts.total, counts.completed, counts.failed],
        "answers": {each["custom_id"]: said(each["response"]["body"]) for each in told},
        "alone": {
            name: said(client.chat.completions.create(**body).model_dump())
            for name, body in bodies.items()
        },
        "error": [error["custom_id"], refused["status_code"], refused["body"]["error"]["code"]],
    }


async def main(address: str, model: str, folder: str) -> None:
    """Ask what a program asks, sync and async."""
    url = f"http://{address}/v1"
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    options = {
        "model": model,
        "messages": ASKED,
        "max_tokens": 12,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    whole = client.chat.completions.create(**options)
    told = {
        "text": whole.choices[0].message.content,
        "finish": whole.choices[0].finish_reason,
        "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
    }
    chunks = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    told["chunks"] = [each.choices[0].delta.content for each in chunks if each.choices]
    told["chunks_usage"] = chunks[-1].usage.completion_tokens
    several = client.chat.completions.create(**options, n=2, logprobs=True, top_logprobs=3)
    told["several"] = [each.message.content for each in several.choices]
    told["logprobs"] = [
        [len(token.top_logprobs) for token in each.logprobs.content] for each in several.choices
    ]
    form = {"type": "json_schema", "json_schema": {"name": "one", "schema": SCHEMA}}
    held = client.chat.completions.create(
        model=model, messages=ASKED, max_tokens=64, temperature=0, response_format=form
    )
    told["held"] = held.choices[0].message.content
    told["tools"] = calls(client, model)
    told["batch"] = batch(client, model, folder)
    text = client.completions.create(
        model=model, prompt="The ferry left", max_tokens=5, temperature=0, echo=True
    )
    told["completion"] = text.choices[0].text
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as others:
        stream = await others.chat.completions.create(**options, stream=True)
        parts = [each async for each in stream]
        told["async"] = "".join(each.choices[0].delta.content or "" for each in parts)
    errors = {}
    for name, more in (
        ("missing", {"model": "nonesuch"}),
        ("long", LONG),
        ("temperature", {"temperature": 3}),
    ):
        try:
            client.chat.completions.create(**{**options, **more})
        except openai.APIStatusError as error:
            errors[name] = [type(error).__name__, error.code, error.param, error.message]
    print(json.dumps({**told, "errors": errors}))  # noqa: T201 - what the test reads


asyncio.run(main(*sys.argv[1:]))
