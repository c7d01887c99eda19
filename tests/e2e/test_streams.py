"""Answers in parts through a real cluster, over each wire: many at once, a node that is killed, readers that stall or leave."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import engine_models
import grpc
import numpy as np
import pytest
from engine_link import counted, until
from process_memory import resident_bytes
from tritonclient.grpc import service_pb2

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient, Outputs
from capamesh.protocol.errors import LinkLost

ROOT = Path(__file__).resolve().parents[2]
STEPS = 100
OVER_SSE, OVER_GRPC, OVER_WEBSOCKET = 600, 200, 200
STREAMS_OF_CHANNEL = 50
LIMIT_S = 120.0
"""Far more than anything here takes; it only ends a test that hangs."""
MOST_GROWTH_MIB = 250
"""What a thousand answers of a hundred parts may add to a router's memory: some have windows of 64 KiB."""


def write_counter(root: Path) -> None:
    """Write a model that counts up from `x` until `until`, a step a part."""
    model = engine_models.model_of(
        """count (float[N, 1] x, float[N, 1] until) => (float[N, 1] y, int32[N, 1] done) <float[1] step = {1}>
        { y = Add(x, step) is_done = GreaterOrEqual(y, until) done = Cast <to = 6> (is_done) }"""
    )
    loop = '[loop]\nfeedback = {x = "y"}\nmax_steps = 1000000\nstop = "done"\n'
    engine_models.save(model, root, "count", manifest=loop)


@pytest.fixture
def make_counters(tmp_path: Path) -> Callable[..., LocalCluster]:
    """Return a maker of clusters whose nodes count."""

    write_counter(tmp_path / "models")
    return lambda: LocalCluster(
        tmp_path / "cluster",
        tmp_path / "models",
        nodes=1,
        node_options=("--metrics", "127.0.0.1:0"),
        router_options=("--timeout", "300"),  # for machines that have other work, too
    )


class Sse:
    """One answer as server-sent events, over a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def begin(cls, url: str, first: float, until: float) -> Sse:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**16)
        body = json.dumps({"id": f"{first:g}", "x": [[first]], "until": until}).encode()
        writer.write(
            b"POST /v2/models/count/generate_stream HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        status = await reader.readline()
        assert b" 200 " in status, status + await reader.read(2000)
        while await reader.readline() != b"\r\n":
            pass
        return cls(reader, writer)

    async def event(self) -> Any:
        """Return the data of the next event; None: there is none."""
        while line := await self._reader.readline():
            if line.startswith(b"data: "):
                return json.loads(line[6:])
            if line == b"0\r\n":
                return None
        return None

    async def all(self) -> list[Any]:
        found: list[Any] = []
        while (event := await self.event()) is not None:
            found.append(event)
        self.close()
        return found

    def close(self) -> None:
        self._writer.close()


def message(first: float, until: float) -> bytes:
    built = service_pb2.ModelInferRequest(
        model_name="count",
        id=f"{first:g}",
        inputs=[
            {"name": "x", "datatype": "FP32", "shape": [1, 1]},
            {"name": "until", "datatype": "FP32", "shape": [1, 1]},
        ],
        raw_input_contents=[np.float32(first).tobytes(), np.float32(until).tobytes()],
    )
    return bytes(built.SerializeToString())


async def over_sse(url: str, first: float) -> list[float]:
    events = await (await Sse.begin(url, first, first + STEPS)).all()
    assert "error" not in events[-1], events[-1]
    assert {event["id"] for event in events} == {f"{first:g}"}
    return [event["y"] for event in events]


async def over_grpc(channel: grpc.aio.Channel, first: float) -> list[float]:
    call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
    await call.write(message(first, first + STEPS))
    await call.done_writing()
    found: list[float] = []
    async for data in call:
        answer = service_pb2.ModelStreamInferResponse.FromString(data)
        assert not answer.error_message
        assert answer.infer_response.id == f"{first:g}"
        found.append(float(np.frombuffer(answer.infer_response.raw_output_contents[0], "f4")[0]))
    return found


def socket_stream(client: AsyncClient, first: float, until: float) -> AsyncIterator[Outputs]:
    """Return the parts of one answer over WebSocket."""
    asked = {"x": np.array([[first]], np.float32), "until": np.array([[until]], np.float32)}
    return client.stream("count", [asked], parts=True)


async def all_of(parts: AsyncIterator[Outputs]) -> list[float]:
    return [float(part["y"][0, 0]) async for part in parts]


async def over_websocket(client: AsyncClient, first: float) -> list[float]:
    return await all_of(socket_stream(client, first, first + STEPS))


async def test_page_on_answers_in_parts_works_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/how-to/get-answers-in-parts.md").read_text()
    model, client, own = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (curl,) = re.findall(r"^ {4}(curl .*)", page, re.MULTILINE)
    events = "".join(re.findall(r"^ {4}(data: .*\n)", page, re.MULTILINE))
    monkeypatch.chdir(tmp_path)
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", model], check=True)
    async with LocalCluster(tmp_path / "cluster", tmp_path / "models", nodes=1) as cluster:
        await cluster.wait_routable(1)
        here = cluster.http_url.removeprefix("http://")

        def followed(*command: str) -> str:
            places = [word.replace("127.0.0.1:8000", here) for word in command]
            return subprocess.run(places, check=True, capture_output=True, text=True).stdout

        shown = await asyncio.to_thread(followed, *shlex.split(curl))
        assert shown.replace("\n\n", "\n") == events
        assert await asyncio.to_thread(followed, sys.executable, "-c", client) == "1.0\n2.0\n3.0\n"
        shown = await asyncio.to_thread(followed, sys.executable, "-c", own)
        assert shown == "1.0 False\n2.0 False\n3.0 True\n"


async def test_thousand_answers_of_a_hundred_parts_are_whole_and_not_mixed_up(
    make_counters: Callable[..., LocalCluster],
) -> None:
    async with make_counters() as cluster:
        await cluster.wait_routable(1)
        target = cluster.http_url.removeprefix("http://")
        before_mib = resident_bytes(cluster.router.pid) / 2**20
        channels = [
            grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(OVER_GRPC // STREAMS_OF_CHANNEL)
        ]
        firsts = [1000.0 * at for at in range(OVER_SSE + OVER_GRPC + OVER_WEBSOCKET)]
        rest = OVER_SSE + OVER_GRPC
        async with AsyncClient(cluster.http_url) as client:
            found = await asyncio.gather(
                *(over_sse(cluster.http_url, first) for first in firsts[:OVER_SSE]),
                *(
                    over_grpc(channels[at % len(channels)], first)
                    for at, first in enumerate(firsts[OVER_SSE:rest])
                ),
                *(over_websocket(client, first) for first in firsts[rest:]),
            )
        for channel in channels:
            await channel.close()
        for first, values in zip(firsts, found, strict=True):
            assert values == [first + at for at in range(1, STEPS + 1)]
        assert resident_bytes(cluster.router.pid) / 2**20 - before_mib < MOST_GROWTH_MIB


async def test_answer_of_a_killed_worker_breaks_off_in_band_and_none_hangs(
    make_counters: Callable[..., LocalCluster],
) -> None:
    async with make_counters() as cluster:
        await cluster.wait_routable(1)
        target = cluster.http_url.removeprefix("http://")
        streams = [await Sse.begin(cluster.http_url, at, 1e9) for at in range(20)]
        for stream in streams:
            assert (await stream.event())["y"] >= 1
        async with (
            grpc.aio.insecure_channel(target) as channel,
            AsyncClient(cluster.http_url) as client,
        ):
            socket = socket_stream(client, 0, 1e9)
            await anext(socket)
            call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
            await call.write(message(0, 1e9))
            await call.read()
            (worker,) = cluster.nodes[0].status()["worker_pids"]
            os.kill(worker, signal.SIGKILL)
            for stream in streams:
                *_, last = await asyncio.wait_for(stream.all(), LIMIT_S)
                assert last["code"] == "link_lost"
                assert last["error"].startswith(f"the answer broke off after {last['parts']} parts")
            answer = service_pb2.ModelStreamInferResponse()
            while not answer.error_message:
                answer.ParseFromString(await asyncio.wait_for(call.read(), LIMIT_S))
            assert "the answer broke off after" in answer.error_message
            with pytest.raises(LinkLost, match="the answer broke off after"):
                await asyncio.wait_for(all_of(socket), LIMIT_S)
            call.cancel()


@pytest.mark.smoke
async def test_reader_that_leaves_ends_the_work_of_the_node_whatever_its_wire(
    make_counters: Callable[..., LocalCluster],
) -> None:
    async with make_counters() as cluster:
        await cluster.wait_routable(1)
        (node,) = cluster.nodes

        async def figures() -> dict[str, float]:
            return await counted(node, "count")

        sse = await Sse.begin(cluster.http_url, 0, 1e9)
        await sse.event()
        async with (
            grpc.aio.insecure_channel(cluster.http_url.removeprefix("http://")) as channel,
            AsyncClient(cluster.http_url) as client,
        ):
            call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
            await call.write(message(0, 1e9))
            await call.read()
            socket = socket_stream(client, 0, 1e9)
            await anext(socket)
            await until(figures, lambda seen: seen.get("in_flight") == 3)
            for left, leave in enumerate((sse.close, call.cancel), start=1):
                leave()
                await until(figures, lambda seen, left=left: seen.get("in_flight") == 3 - left)  # type: ignore[misc]
            await socket.aclose()  # type: ignore[attr-defined]
            seen = await until(figures, lambda seen: seen.get("in_flight") == 0)
        assert (seen["requests cancelled"], seen["requests ok"]) == (3, 0)
