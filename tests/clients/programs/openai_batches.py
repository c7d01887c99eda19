"""What OpenAI's own client gets of files and batches: `ADDRESS MODEL FOLDER`. Prints JSON."""

import json
import pathlib
import sys
import time

import openai

TEXTS = ["a cat sat", "dog", ["good", "bad dog"], [2, 5, 3]]
ENDED = ("completed", "failed", "expired", "cancelled")
LIMIT_S = 100.0


def line(name: str, model: str, given: object, **more: object) -> str:
    """Return a request as a file has it."""
    body = {"model": model, "input": given, **more}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": body})


def ended(client: openai.OpenAI, batch: str) -> object:
    """Return a batch once it has ended."""
    until_s = time.monotonic() + LIMIT_S
    while (found := client.batches.retrieve(batch)).status not in ENDED:
        if time.monotonic() > until_s:
            raise SystemExit(f"the batch is still {found.status}")
        time.sleep(0.2)
    return found


def main(address: str, model: str, folder: str) -> None:
    """Do what a program does with batches."""
    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0)
    path = pathlib.Path(folder) / "requests.jsonl"
    lines = [line(f"r{at}", model, given) for at, given in enumerate(TEXTS)]
    lines.append(line("short", model, "dog", dimensions=2, encoding_format="base64"))
    lines.append(line("bad", model, "dog", dimensions=1000))
    path.write_text("\n".join(lines) + "\n")
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    chunked = client.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="batch", part_size=100
    )
    is_same = client.files.content(chunked.file.id).content == path.read_bytes()
    client.files.delete(chunked.file.id)
    given_up = client.uploads.create(
        bytes=3, filename="x", mime_type="text/plain", purpose="user_data"
    )
    client.uploads.parts.create(given_up.id, data=b"abc")
    given_up = client.uploads.cancel(given_up.id)
    batch = client.batches.create(
        input_file_id=uploaded.id,
        endpoint="/v1/embeddings",
        completion_window="24h",
        metadata={"for": "a test"},
    )
    done = ended(client, batch.id)
    answers = {}
    for each in client.files.content(done.output_file_id).text.splitlines():
        answer = json.loads(each)
        answers[answer["custom_id"]] = answer["response"]["body"]
    alone = [
        client.embeddings.with_raw_response.create(
            model=model, input=given, encoding_format="float"
        ).http_response.json()
        for given in TEXTS
    ]
    errors = [json.loads(each) for each in client.files.content(done.error_file_id).iter_lines()]
    other = client.batches.create(
        input_file_id=uploaded.id, endpoint="/v1/embeddings", completion_window="1h"
    )
    client.batches.cancel(other.id)
    refused = {}
    path.write_text(lines[0] + "\n" + lines[0] + "\n")
    for name, ask in (
        ("twice", lambda: client.files.create(file=path, purpose="batch")),
        ("missing", lambda: client.files.retrieve("file-0")),
        ("no batch", lambda: client.batches.retrieve("batch_0")),
    ):
        try:
            ask()
        except openai.APIStatusError as error:
            refused[name] = [type(error).__name__, error.code, error.param, error.message]
    told = {
        "uploaded": [uploaded.purpose, uploaded.filename, uploaded.bytes, uploaded.status],
        "chunked": [chunked.status, chunked.file.purpose, chunked.file.filename, is_same],
        "given_up": given_up.status,
        "created": [batch.status, batch.metadata, batch.completion_window],
        "done": done.status,
        "counts": [
            done.request_counts.total,
            done.request_counts.completed,
            done.request_counts.failed,
        ],
        "answers": answers,
        "alone": alone,
        "errors": [[each["custom_id"], each["response"]["status_code"]] for each in errors],
        "cancelled": ended(client, other.id).status,
        "listed": [each.id for each in client.batches.list()],
        "batches": [batch.id, other.id],
        "files": sorted({each.purpose for each in client.files.list()}),
        "deleted": client.files.delete(uploaded.id).deleted,
        "refused": refused,
    }
    print(json.dumps(told))  # noqa: T201 - what the test reads


main(*sys.argv[1:])
