"""Files of requests for batches."""

from __future__ import annotations

import json
from typing import Any

URL = "/v1/embeddings"


def request(name: str, given: object = "a cat", **changed: Any) -> dict[str, Any]:
    body = {"model": "words", "input": given, **changed.pop("body", {})}
    return {"custom_id": name, "method": "POST", "url": URL, "body": body, **changed}


def text_of(*requests: object) -> bytes:
    """Return requests as a file has them, a line each."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in requests)
