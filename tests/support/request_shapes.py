"""Requests of many shapes, good and bad, made of a seed: JSON and binary tensors of all datatypes."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

from capamesh.protocol.tensors import Datatype

RANKS = range(5)


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
        parts = [raw for _, _, _, raw in tensors] if is_binary else []
        if rng.random() < 0.4:
            described["id"] = rng.choice(("one", "", "é\N{GRINNING FACE}", "a" * 70, '"\\\n'))
        if rng.random() < 0.5:
            outputs = rng.choice(((), ("x",), ("y",), ("x", "y"), ("y", "x"), ("none",)))
            described["outputs"] = [
                {"name": name}
                | (
                    {"parameters": {"binary_data": rng.random() < 0.5}}
                    if rng.random() < 0.7
                    else {}
                )
                for name in outputs
            ]
        if rng.random() < 0.15:
            described["parameters"] = self._parameters()
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
        return self._head(model_of(tensors[0][1], len(tensors[0][2])), body, length), body

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
            fields.append(
                rng.choice(
                    (
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
                )
            )
        if rng.random() < 0.02:
            fields.append("Connection: close")
        return ("\r\n".join(fields) + "\r\n\r\n").encode()

    def _tensor(self, name: str) -> tuple[str, Datatype, list[int], bytes]:
        """Return a tensor's name, datatype, shape and bytes."""
        rng = self._rng
        # half of them to one model, so that much becomes known of its replicas
        datatype = Datatype.FP32 if rng.random() < 0.6 else rng.choice(list(Datatype))
        shape = [
            rng.choice((0, 1, 1, 2, 3, 5))
            for _ in range(rng.choice((0, 1, 2, 2, 2, 2, 2, 2, 3, 4)))
        ]
        if rng.random() < 0.004:
            shape = [rng.choice((500, 4000, 20_000)), 2]
        count = 1
        for size in shape:
            count *= size
        if datatype is Datatype.BYTES:
            texts = [rng.choice((b"", b"a", "é€".encode(), b"\n\x01", b"w" * 40))] * count
            return name, datatype, shape, b"".join(struct.pack("<I", len(t)) + t for t in texts)
        if datatype is Datatype.BOOL:
            return name, datatype, shape, bytes(rng.choices((0, 1), k=count))
        return name, datatype, shape, rng.randbytes(count * (datatype.itemsize_bytes or 1))

    def _described(
        self, name: str, datatype: Datatype, shape: list[int], raw: bytes, *, is_binary: bool
    ) -> dict[str, Any]:
        described: dict[str, Any] = {"name": name, "datatype": str(datatype), "shape": shape}
        if is_binary:
            return described | {"parameters": {"binary_data_size": len(raw)}}
        flat = self._elements(datatype, raw)
        return described | {"data": nested(flat, shape) if self._rng.random() < 0.5 else flat}

    def _elements(self, datatype: Datatype, raw: bytes) -> list[Any]:
        """Return elements as JSON may give them: numbers of any spelling, now and then one that does not fit."""
        rng = self._rng
        if datatype is Datatype.BYTES:
            flat: list[Any] = []
            while raw:
                size = 4 + int.from_bytes(raw[:4], "little")
                flat.append(raw[4:size].decode())
                raw = raw[size:]
            return flat
        if datatype is Datatype.BOOL:
            return [bool(byte) for byte in raw]
        if "FP" in datatype or datatype is Datatype.BF16:
            count = len(raw) // (datatype.itemsize_bytes or 1)
            some = (0.0, -0.0, 1, 0.1, -1.5e-7, 65504.0, 3.0e38, 1e300, 2**53 + 1, 1e-310)
            return [
                rng.choice(some) if rng.random() < 0.3 else rng.uniform(-9, 9) for _ in range(count)
            ]
        flat = list(struct.unpack(f"<{len(raw) // _SIZES[datatype]}{_CODES[datatype]}", raw))
        if flat and rng.random() < 0.05:
            flat[rng.randrange(len(flat))] = rng.choice(
                (2**64, -(2**63) - 1, 300, -1, 1.5, 1.0, True)
            )
        return flat

    def _parameters(self) -> dict[str, Any]:
        return self._rng.choice(
            (
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
        )

    def _spoil(self, described: dict[str, Any]) -> None:
        """Make a description wrong in one place."""
        rng = self._rng
        where = rng.choice((described, described["inputs"][0], described["inputs"][-1]))
        wrong = (None, 1, -1, 1.5, "", "text", [], {}, [[]], [None], True, "\x00", 2**70, "é" * 300)
        if rng.random() < 0.3:
            where.pop(rng.choice(list(where)))
        elif rng.random() < 0.8:
            where[rng.choice([*where, "shape", "datatype", "data", "name"])] = rng.choice(wrong)
        elif rng.random() < 0.5:
            where["unknown"] = rng.choice(wrong)
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
                return body[:at] + rng.choice((b"[", b"}", b'"', b"\\u12", b"1e", b",")) + body[
                    at:
                ], length
            case 4:
                return body.replace(b'"shape"', b'"name":"twice","shape"', 1), length
            case _:
                return body, rng.choice((None, 0, 1, len(body), len(body) + 1, at))


_CODES = {
    Datatype.UINT8: "B",
    Datatype.UINT16: "H",
    Datatype.UINT32: "I",
    Datatype.UINT64: "Q",
    Datatype.INT8: "b",
    Datatype.INT16: "h",
    Datatype.INT32: "i",
    Datatype.INT64: "q",
}
_SIZES = {datatype: struct.calcsize(f"<{code}") for datatype, code in _CODES.items()}


def nested(flat: list[Any], shape: list[int]) -> list[Any]:
    """Return elements as lists in lists, as a shape of two and more dimensions says."""
    for size in reversed(shape[1:]):
        if size == 0:
            return [[] for _ in range(shape[0])]
        flat = [flat[at : at + size] for at in range(0, len(flat), size)]
    return flat
