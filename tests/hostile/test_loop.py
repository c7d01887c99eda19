"""No request, whatever is in it, keeps a router from its links and its other clients.

The bar is on the CPU time that one callback of the router's loop takes, see `loop_watch`: other processes on the machine
delay a loop without keeping it. How late the loop was besides is told, and has no bar.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import math
from pathlib import Path

from clusters import metrics_at
from engine_link import logged
from hostile import MIB, AttackedNetwork, Figures, attacked
from machine_speed import times_slower, touch_memory

from capamesh.protocol.metrics import LOOP_BUSY, LOOP_DELAY, Metric

INFER = b"/v2/models/digits/infer"
SIZE = 4 * MIB - 200
"""Of a body: what a router takes of JSON."""
PAGES_S = 2.0
"""How long pages are asked for."""
MOST_BUSY_S = 0.1
"""What a callback may take, and with it all that ran since the beat before; as many times more as this machine is slower than that of the bar."""
LONG = 60 * MIB
"""Of a message that is no JSON: nearly all that a router takes."""
LIMIT_S = 120.0
"""Until an answer comes: a router gives a request 30 s to arrive and 30 s to be answered; more only ends a test that hangs."""
CHUNKED = b"Transfer-Encoding: chunked"


class LoopTime:
    """How long the router's loop was kept since this was begun, by its own histograms."""

    def __init__(self, network: AttackedNetwork, begun: dict[str, float]) -> None:
        self._network = network
        self._begun = begun

    @classmethod
    async def begin(cls, network: AttackedNetwork) -> LoopTime:
        return cls(network, await _settled_metrics(network))

    async def longest_s(self) -> tuple[float, float]:
        """Return the most CPU time of a beat, and the longest delay: the bounds that they do not exceed. Begin anew."""
        before, self._begun = self._begun, await _settled_metrics(self._network)
        grown = {name: value - before.get(name, 0) for name, value in self._begun.items()}
        return _highest(LOOP_BUSY, grown), _highest(LOOP_DELAY, grown)


def _highest(metric: Metric, grown: dict[str, float]) -> float:
    """Return the lowest bound that none of the histogram's new values exceed."""
    at_most = {
        float(name.rpartition('le="')[2].removesuffix('"}')): count
        for name, count in grown.items()
        if name.startswith(f"{metric.name}_bucket")
    }
    return min(bound for bound, count in at_most.items() if count == at_most[math.inf])


async def _settled_metrics(network: AttackedNetwork) -> dict[str, float]:
    """Return metrics that were made, and that the loop came around before, since this was called."""
    metrics = await metrics_at(network.http_url)
    for _ in range(2):  # the first that differ were made since; the next know the beat after that
        beats = metrics[f"{LOOP_BUSY.name}_count"]
        while metrics[f"{LOOP_BUSY.name}_count"] == beats:
            metrics = await metrics_at(network.http_url)
    return metrics


def tensor(datatype: str, shape: list[int], data: bytes) -> bytes:
    head = f'{{"inputs":[{{"name":"X","datatype":"{datatype}","shape":{shape},"data":'
    return head.encode() + data + b"}]}"


def bodies() -> dict[str, bytes]:
    """Return the worst JSON that is known, each of nearly all that may be sent."""
    many = SIZE // 2 - 100
    return {
        "a wrong integer at the end": tensor("UINT8", [many], b"[" + b"0," * (many - 1) + b"300]"),
        "a wrong truth at the end": tensor("BOOL", [many], b"[" + b"0," * (many - 1) + b"2]"),
        "a text at the end": tensor("FP32", [many - 2], b"[" + b"0," * (many - 3) + b'"x"]'),
        "lists": tensor("INT64", [7], b"[" + b"[]," * (SIZE // 3 - 100) + b"[]]"),
        "valid integers": tensor("INT64", [many], b"[" + b"0," * (many - 1) + b"1]"),
        "valid lists": tensor("INT64", [many // 2, 1], b"[" + b"[0]," * (many // 2 - 1) + b"[0]]"),
        "texts": tensor("BYTES", [10**6], b"[" + b'"",' * (10**6 - 1) + b'""]'),
        "a text of escapes": tensor("BYTES", [1], b'["' + b"\\n" * (many - 10) + b'"]'),
        "objects nobody asked for": b'{"inputs":[],"x":[' + b"{}," * (SIZE // 3 - 20) + b"{}]}",
        "keys": b"{" + b'"a":1,' * (SIZE // 6 - 10) + b'"inputs":[]}',
        "brackets": b'{"inputs":[{"data":' + b"[" * (SIZE - 30),
        "inputs": b'{"inputs":[' + b"{}," * (SIZE // 3 - 20) + b"{}]}",
    }


def long_messages() -> dict[str, tuple[bytes, tuple[bytes, ...]]]:
    """Return messages of nearly all bytes that one may have, each with its headers beside the length."""

    def raw(datatype: str, shape: list[int], data: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        head = (
            f'{{"inputs":[{{"name":"X","datatype":"{datatype}","shape":{shape},'
            f'"parameters":{{"binary_data_size":{len(data)}}}}}]}}'
        ).encode()
        return head + data, (b"Inference-Header-Content-Length: %d" % len(head),)

    keys = bodies()["keys"]
    return {
        "raw numbers": raw("FP32", [LONG // 256, 64], bytes(LONG)),
        "raw empty texts": raw("BYTES", [LONG // 4], bytes(LONG)),
        "raw truths that are none": raw("BOOL", [LONG], b"\x02" * LONG),
        "keys before raw bytes": (
            keys + bytes(LONG - len(keys)),
            (b"Inference-Header-Content-Length: %d" % len(keys),),
        ),
        "chunks of one byte": (b"1\r\n0\r\n" * (SIZE // 2) + b"0\r\n\r\n", (CHUNKED,)),
    }


async def post(
    network: AttackedNetwork, path: bytes, body: bytes, *headers: bytes
) -> tuple[int, bytes]:
    """Send a request as it is; return the answer's status and its text."""
    reader, writer = await asyncio.open_connection(*network.address)
    try:
        head = [b"POST " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *headers]
        if CHUNKED not in headers:
            head.append(b"Content-Length: %d" % len(body))
        writer.write(b"\r\n".join([*head, b"", b""]) + body)
        async with asyncio.timeout(LIMIT_S):
            status = await reader.readline()
            return int(status.split()[1]), await reader.read()
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ask_again(network: AttackedNetwork, path: bytes) -> None:
    """Ask for a page as soon as it has come, for `PAGES_S`."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + PAGES_S
    reader, writer = await asyncio.open_connection(*network.address)
    while loop.time() < until_s:
        writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()


async def test_hostile_input_neither_blocks_the_loop_nor_costs_a_link(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    touch_memory()
    async with attacked(tmp_path, sample_models, nodes=2) as network:
        down = len(logged(network.router, "link_down"))
        async with network.honest(connections=2) as seen:
            time = await LoopTime.begin(network)
            longest = dict[str, tuple[float, float]]()
            for name, body in bodies().items():
                status, text = await post(network, INFER, body)
                assert status in {400, 413}, (name, status, text[-300:])
                longest[name] = await time.longest_s()
            # six of the dearest together
            dear = bodies()["texts"]
            answers = await asyncio.gather(*(post(network, INFER, dear) for _ in range(6)))
            assert {status for status, _ in answers} <= {400, 503, 504}
            longest["six of texts"] = await time.longest_s()
            # and more than is read at all
            status, text = await post(network, INFER, b"[" * (5 * MIB))
            assert (status, b"send tensors as binary data" in text) == (413, True)
            longest["more than is read"] = await time.longest_s()
            figures.at_most("the router's peak with long JSON, MB", peak_mb(network), 300)
            for name, (body, headers) in long_messages().items():
                status, text = await post(network, INFER, body, *headers)
                assert status in {200, 400, 413}, (name, status, text[-300:])
                longest[name] = await time.longest_s()
            paths = (b"/v1/nodes", b"/metrics", b"/v2")
            await asyncio.gather(*(ask_again(network, path) for path in paths for _ in range(4)))
            longest["pages without end"] = await time.longest_s()
        assert seen.failures == []
        assert len(logged(network.router, "link_down")) == down
        tell(figures, longest)


async def test_no_packed_body_keeps_the_loop_or_takes_its_memory(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    bomb = gzip.compress(bytes(60 * MIB), 9)
    touch_memory()
    async with attacked(tmp_path, sample_models, nodes=1) as network:
        async with network.honest(connections=2) as seen:
            time = await LoopTime.begin(network)
            longest = dict[str, tuple[float, float]]()
            for path in (INFER, b"/v1/revocations", b"/v2/repository/index"):
                for _ in range(3):
                    status, _ = await post(network, path, bomb, b"Content-Encoding: gzip")
                    assert status == 413
                longest[f"packed for {path.decode()}"] = await time.longest_s()
            answers = await asyncio.gather(
                *(post(network, INFER, bomb, b"Content-Encoding: gzip") for _ in range(6))
            )
            assert {status for status, _ in answers} <= {413, 503}
            longest["six packed ones"] = await time.longest_s()
        assert seen.failures == []
        tell(figures, longest)
        figures.at_most("the router's peak with packed bodies, MB", peak_mb(network), 300)


def tell(figures: Figures, longest: dict[str, tuple[float, float]]) -> None:
    """Keep the figures: the delays, which have no bar, and what the loop itself took."""
    for name, (_, late_s) in longest.items():
        figures.note(f"the loop's longest delay, {name}, s", late_s)
    most_s = MOST_BUSY_S * times_slower()
    for name, (busy_s, _) in longest.items():
        figures.at_most(f"the loop's longest callback, {name}, s", busy_s, most_s)


def peak_mb(network: AttackedNetwork) -> float:
    """Return what the router itself has had at most; its sidecar is not of HTTP."""
    return network.peak_bytes(network.router) / 1e6
