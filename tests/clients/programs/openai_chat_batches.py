"""What OpenAI's own client gets of a batch of chats: `ADDRESS MODEL FOLDER`. Prints JSON."""

import json
import pathlib
import sys
import time

import openai

ENDED = ("completed", "failed", "expired", "cancelled")
LIMIT_S = 100.0
URL = "/v1/chat/completions"
COUNT = 12


def body_of(model: str, number: int) -> dict[str, object]:
    """Return a request."""
    messages = [{"role": "user", "content": f"What is the number {number}?"}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8}


def main(address: str, model: str, folder: str) -> None:
    """Have chats answered in the background, and by themselves."""
    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0)
    bodies = {f"r{at}": body_of(model, at) for at in range(COUNT)}
    bodies["long"] = body_of(model, 0) | {"messages": [{"role": "user", "content": "word " * 4000}]}
    path = pathlib.Path(folder) / "chats.jsonl"
    lines = [
        json.dumps({"custom_id": name, "method": "POST", "url": URL, "body": body})
        for name, body in bodies.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    batch = client.batches.create(input_file_id=uploaded.id, endpoint=URL, completion_window="24h")
    until_s = time.monotonic() + LIMIT_S
    while (done := client.batches.retrieve(batch.id)).status not in ENDED:
        if time.monotonic() > until_s:
            raise SystemExit(f"the batch is still {done.status}")
        time.sleep(0.2)
    answers = {}
    for line in client.files.content(done.output_file_id).text.splitlines():
        answer = json.loads(line)
        found = openai.types.chat.ChatCompletion.model_validate(answer["response"]["body"])
        answers[answer["custom_id"]] = [found.choices[0].message.content, found.usage.total_tokens]
    alone = {}
    for name, body in bodies.items():
        if name != "long":
            found = client.chat.completions.create(**body)
            alone[name] = [found.choices[0].message.content, found.usage.total_tokens]
    errors = [json.loads(each) for each in client.files.content(done.error_file_id).iter_lines()]
    counts = done.request_counts
    told = {
        "status": done.status,
        "counts": [counts.total, counts.completed, counts.failed],
        "answers": answers,
        "alone": alone,
        "errors": [
            [each["custom_id"], each["response"]["status_code"], each["response"]["body"]["error"]]
            for each in errors
        ],
    }
    print(json.dumps(told))  # noqa: T201 - what the test reads


main(*sys.argv[1:])
