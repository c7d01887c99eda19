"""A stream of real requests at a cluster, and what became of each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from capamesh.protocol.oip import HEADER_LENGTH_NAME, decode_response, encode_request
from capamesh.protocol.tensors import Tensor


@dataclass(slots=True)
class Seen:
    """What a stream of requests saw."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    nodes: Counter[str] = field(default_factory=Counter)


async def digits_stream(
    url: str,
    cases_file: Path,
    *,
    count: int,
    concurrency: int,
    at: Mapping[int, Callable[[], Awaitable[None]]] | None = None,
) -> Seen:
    """Send `count` requests, `concurrency` at a time; do `at[n]` just before the n-th is sent."""
    cases: Any = np.load(cases_file)
    rows, expected = cases["rows"], cases["expected"]
    input_name, output_name = str(cases["input"]), str(cases["output"])
    seen, numbers = Seen(), iter(range(count))
    right = np.flatnonzero(expected >= 0)

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        row = int(right[number % len(right)])
        buffers, header_length = encode_request(
            [Tensor.from_numpy(input_name, rows[row : row + 1])]
        )
        headers = {HEADER_LENGTH_NAME: str(header_length)}
        try:
            async with session.post(
                f"{url}/v2/models/digits/infer", data=b"".join(buffers), headers=headers
            ) as reply:
                body = await reply.read()
                if reply.status != 200:
                    seen.failures.append(f"{reply.status}: {body[:300]!r}")
                    return
                length = int(reply.headers[HEADER_LENGTH_NAME])
                seen.nodes[reply.headers["X-Capamesh-Node"]] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.failures.append(repr(error))
            return
        seen.answered += 1
        outputs = {tensor.name: tensor for tensor in decode_response(body, length).outputs}
        if int(np.argmax(outputs[output_name].to_numpy())) != answers[row]:
            seen.wrong.append(row)

    async def worker(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            if at and number in at:
                await at[number]()
            await one(session, number)

    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        buffers, header_length = encode_request([Tensor.from_numpy(input_name, rows)])
        async with session.post(
            f"{url}/v2/models/digits/infer",
            data=b"".join(buffers),
            headers={HEADER_LENGTH_NAME: str(header_length)},
        ) as reply:
            reply.raise_for_status()
            response = decode_response(await reply.read(), int(reply.headers[HEADER_LENGTH_NAME]))
        outputs = {tensor.name: tensor.to_numpy() for tensor in response.outputs}
        answers = np.argmax(outputs[output_name], axis=1).tolist()
        await asyncio.gather(*(worker(session) for _ in range(concurrency)))
    return seen
