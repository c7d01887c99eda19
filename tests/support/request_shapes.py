"""Requests of many shapes, good and bad, made of a seed: JSON and binary tensors of all datatypes."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np

from capamesh.protocol.tensors import Datatype, join_elements, split_elements

RANKS = range(5)
HEADERS = (
    "X-Capamesh-Policy: round-robin",
    "X-Capamesh-Policy: p2c",
    "X-Capamesh-Policy: least-request",
    "X-Capamesh-Policy: peak-ewma",
    "X-Capamesh-Policy: peak-ewma",
    "X-Capamesh-Explain: 1",
    "X-Capamesh-Affinity: somebody",
    "X-Capamesh-Tenant: tenant",
    "X-Capamesh-Max-Price: 1",
    "X-Capamesh-Region: us, eu",
    "X-Capamesh-Nodes: B,C",
    "X-Capamesh-Device: cpu",
)
PARAMETERS: tuple[dict[str, Any], ...] = (
    {"timeout": 5_000_000},
    {"timeout": -1},
    {"timeout": "1"},
    {"priority": 3},
    {"priority": 1.5},
    {"sequence_id": 7, "sequence_start": True},
    {"sequence_id": 7},
    {"sequence_end": 1},
    {"binary_data_output": True},
    {"binary_data_output": 1},
    {"own": "text", "other": 1.25, "third": False},
    {"own": None},
    {"own": [1]},
)
WRONG = (None, 1, -1, 1.5, "", "text", [], {}, [[]], [None], True, "\x00", 2**70, "é" * 300)
TEXTS = (b"", b"a", "é€".encode(), b"\n\x01", b"w" * 40)
FLOATS = (0.0, -0.0, 1, 0.1, -1.5e-7, 65504.0, 3.0e38, 1e300, 2**53 + 1, 1e-310)
NO_INTEGERS = (2**64, -(2**63) - 1, 300, -1, 1.5, 1.0, True)


def model_of(datatype: Datatype, rank: int) -> str:
    """Return the model whose outputs are of a datatype and of that many dimensions."""
    return f"{datatype.lower()}-{rank}"


class RequestShapes:
    """Makes requests: six of ten are good, of many shapes, and the others are bad in many ways."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def next(self) -> tuple[bytes, bytes]:
        """Return a head, its empty line included, and a body."""
        rng = self._rng
        tensors = [self._tensor(name) for name in ("x", "y", "z")[: rng.choice((1, 1, 1, 2, 3))]]
        is_binary = rng.random() < 0.5
        described: dict[str, Any] = {
            "inputs": [self._described(*each, is_binary=is_binary) for each in tensors]
        }
        parts = [raw for *_, raw in tensors] if is_binary else []
        if rng.random() < 0.4:
            described["id"] = rng.choice(("one", "", "é\N{GRINNING FACE}", "a" * 70, '"\\\n'))
        if rng.random() < 0.5:
            names = rng.choice(((), ("x",), ("y",), ("x", "y"), ("y", "x"), ("none",)))
            described["outputs"] = [self._output(name) for name in names]
        if rng.random() < 0.15:
            described["parameters"] = rng.choice(PARAMETERS)
        if rng.random() < 0.12:
            self._spoil(described)
        text = json.dumps(
            described,
            ensure_ascii=rng.random() < 0.5,
            separators=rng.choice(((",", ":"), (", ", ": "))),
            indent=rng.choice((None, None, None, 1)),
        ).encode()
        length = len(text) if is_binary else None
        body = text + b"".join(parts)
        if rng.random() < 0.1:
            body, length = self._broken(body, length)
        _, datatype, shape, _ = tensors[0]
        return self._head(model_of(datatype, len(shape)), body, length), body

    def _head(self, model: str, body: bytes, length: int | None) -> bytes:
        rng = self._rng
        model = model if rng.random() < 0.97 else rng.choice(("none", "a.b-c_~", "m"))
        version = rng.choice(("", "", "", "/versions/1", "/versions/2"))
        fields = [
            f"POST /v2/models/{model}{version}/infer HTTP/1.1",
            "Host: router",
            rng.choice(("Accept: */*", "User-Agent: a test")),
            f"Content-Length: {len(body)}",
        ]
        if length is not None:
            fields.append(f"Inference-Header-Content-Length: {length}")
        if rng.random() < 0.25:
            fields.append(rng.choice(HEADERS))
        if rng.random() < 0.02:
            fields.append("Connection: close")
        return ("\r\n".join(fields) + "\r\n\r\n").encode()

    def _tensor(self, name: str) -> tuple[str, Datatype, list[int], bytes]:
        rng = self._rng
        # half of them to one model, so that much becomes known of its replicas
        datatype = Datatype.FP32 if rng.random() < 0.6 else rng.choice(list(Datatype))
        rank = rng.choice((0, 1, 2, 2, 2, 2, 2, 2, 3, 4))
        shape = [rng.choice((0, 1, 1, 2, 3, 5)) for _ in range(rank)]
        if rng.random() < 0.004:
            shape = [rng.choice((500, 4000, 20_000)), 2]
        count = math.prod(shape)
        match datatype:
            case Datatype.BYTES:
                raw = bytes(join_elements([rng.choice(TEXTS)] * count))
            case Datatype.BOOL:
                raw = bytes(rng.choices((0, 1), k=count))
            case _:
                raw = rng.randbytes(count * (datatype.itemsize_bytes or 1))
        return name, datatype, shape, raw

    def _described(
        self, name: str, datatype: Datatype, shape: list[int], raw: bytes, *, is_binary: bool
    ) -> dict[str, Any]:
        described: dict[str, Any] = {"name": name, "datatype": str(datatype), "shape": shape}
        if is_binary:
            return described | {"parameters": {"binary_data_size": len(raw)}}
        data = self._elements(datatype, raw, math.prod(shape))
        if len(shape) > 1 and self._rng.random() < 0.5:
            data = np.array(data, object).reshape(shape).tolist()
        return described | {"data": data}

    def _output(self, name: str) -> dict[str, Any]:
        parameters = {"binary_data": self._rng.random() < 0.5}
        return {"name": name} | ({"parameters": parameters} if self._rng.random() < 0.7 else {})

    def _elements(self, datatype: Datatype, raw: bytes, count: int) -> list[Any]:
        """Return elements as JSON may give them: numbers of any spelling, now and then one that does not fit."""
        rng = self._rng
        if datatype is Datatype.BYTES:
            return [bytes(each).decode() for each in split_elements(raw, count)]
        if "FP" in datatype or datatype is Datatype.BF16:
            return [
                rng.choice(FLOATS) if rng.random() < 0.3 else rng.uniform(-9, 9)
                for _ in range(count)
            ]
        flat: list[Any] = np.frombuffer(raw, datatype.numpy_dtype).tolist()
        if flat and datatype is not Datatype.BOOL and rng.random() < 0.05:
            flat[rng.randrange(count)] = rng.choice(NO_INTEGERS)
        return flat

    def _spoil(self, described: dict[str, Any]) -> None:
        """Make a description wrong in one place."""
        rng = self._rng
        where = rng.choice((described, described["inputs"][0], described["inputs"][-1]))
        if rng.random() < 0.3:
            where.pop(rng.choice(list(where)))
        elif rng.random() < 0.8:
            where[rng.choice([*where, "shape", "datatype", "data", "name"])] = rng.choice(WRONG)
        elif rng.random() < 0.5:
            where["unknown"] = rng.choice(WRONG)
        else:
            described["inputs"] = described["inputs"] * rng.choice((0, 2, 5))

    def _broken(self, body: bytes, length: int | None) -> tuple[bytes, int | None]:
        """Break the bytes of a body, or what its head says of them."""
        rng = self._rng
        at = rng.randrange(len(body) + 1)
        match rng.randrange(6):
            case 0:
                return body[:at], length
            case 1:
                return body + b"more"[: rng.randrange(5)], length
            case 2:
                return body[:at] + rng.randbytes(1) + body[at + 1 :], length
            case 3:
                word = rng.choice((b"[", b"}", b'"', b"\\u12", b"1e", b","))
                return body[:at] + word + body[at:], length
            case 4:
                return body.replace(b'"shape"', b'"name":"twice","shape"', 1), length
            case _:
                return body, rng.choice((None, 0, 1, len(body), len(body) + 1, at))
