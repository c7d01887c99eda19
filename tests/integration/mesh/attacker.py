"""A raw libp2p host that attacks a sidecar: started as a process, one command a line on its input.

Input lines are JSON: the first `{"key": hex, "chain": [hex], "ca": hex, "target": multiaddress,
"topics": [text], "is_member": bool}`, then `{"attack": name, ...}`; each is answered by one JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as noise_keys
from libp2p.network.config import ConnectionConfig
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.pb import rpc_pb2
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from capamesh.protocol.channel.framing import encode
from capamesh.protocol.errors import NotMember
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import PeerId
from capamesh.protocol.mesh.handshake import PROTOCOL, Handshake, Side, stream_decoder
from capamesh.protocol.network import NetworkTrust

MESHSUB = "/meshsub/1.1.0"


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


class Attacker:
    def __init__(self, settings: dict[str, object]) -> None:
        self.private_key = bytes.fromhex(settings["key"])
        self.chain = [bytes.fromhex(one) for one in settings["chain"]]
        self.ca_der = bytes.fromhex(settings["ca"])
        self.topics = settings["topics"]
        self.is_member = settings["is_member"]
        self.key_pair = create_new_key_pair(self.private_key)
        noise = Transport(self.key_pair, noise_privkey=noise_keys().private_key)
        self.host = new_host(
            key_pair=self.key_pair,
            sec_opt={NOISE: noise},
            muxer_opt={YAMUX: Yamux},
            # Else it dials its victim again by itself.
            connection_config=ConnectionConfig(min_connections=0, low_watermark=0),
        )
        self.target = info_from_p2p_addr(Multiaddr(settings["target"]))
        self.seqno = time.time_ns()
        self.host.get_network()._negative_peer_cache.is_blocked = lambda _: False

    def conns(self) -> list[object]:
        return [
            conn
            for conn in self.host.get_network().get_connections(self.target.peer_id)
            if not conn.is_closed and not conn.muxed_conn.is_closed
        ]

    async def connect(self) -> None:
        """Be connected, and a member if that is our part; the victim may have hung up meanwhile."""
        while not self.conns():
            await self.host.get_network().close_peer(self.target.peer_id)
            await self.host.connect(self.target)
            if self.is_member:
                with suppress(Exception):
                    assert await self.prove() == ""

    async def prove(self) -> str:
        """Run the handshake as a member would; return why it was refused, if so."""
        handshake = Handshake(
            Side.OPENER,
            identity=Identity.from_private_bytes(self.private_key),
            chain=self.chain,
            trust=NetworkTrust(self.ca_der),
            remote=PeerId(self.target.peer_id.to_base58()),
            nonce=os.urandom(32),
        )
        stream = await self.stream(PROTOCOL)
        await stream.write(handshake.first())
        decoder = stream_decoder()
        while handshake.member is None:
            for message in decoder.feed(await stream.read(65536)):
                if message["type"] == "verdict" and not message["ok"]:
                    return message["why"]
                # A stranger does not take the victim for a member either, but waits for its answer.
                with suppress(NotMember):
                    await stream.write(handshake.receive(message, datetime.now(UTC)))
        return ""

    async def stream(self, protocol: str):  # noqa: ANN201  # libp2p's stream
        return await self.host.new_stream(self.target.peer_id, [protocol])

    def message(self, payload: bytes, topics: list[str] | None = None, **fields: bytes):  # noqa: ANN201  # protobuf
        self.seqno += 1
        message = rpc_pb2.Message(
            data=payload,
            topicIDs=topics or [self.topics[0]],
            from_id=self.host.get_id().to_bytes(),
            seqno=self.seqno.to_bytes(8, "big"),
        )
        message.signature = self.key_pair.private_key.sign(
            b"libp2p-pubsub:" + message.SerializeToString()
        )
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    async def send_rpc(self, *messages: object, **fields: object) -> None:
        await self.send_raw(rpc_pb2.RPC(publish=messages, **fields).SerializeToString())

    async def send_raw(self, body: bytes, prefix: bytes | None = None) -> None:
        stream = await self.stream(MESHSUB)
        await stream.write((varint(len(body)) if prefix is None else prefix) + body)

    async def ended(self, limit_s: float) -> bool:
        with trio.move_on_after(limit_s):
            while self.conns():  # a connection has no event to wait for
                await trio.sleep(0.02)
        return not self.conns()

    # Attacks

    async def undecodable(self) -> None:
        for body in (b"\xff" * 100, b"\x00", b"\x0a\x7f", os.urandom(5000)):
            await self.connect()
            await self.send_raw(body)

    async def garbage_key(self) -> None:
        for fields in (
            {"key": b"garbage"},
            {"key": b"\x08\x01\x12\x20" + bytes(32)},
            {"from_id": b""},
            {"from_id": b"\x12\x20" + bytes(32), "key": b"\x08\x63"},
            {"from_id": b"\x00\x24\x08\x01\x12\x20" + b"\xff" * 32},
            {"seqno": b""},
            {"signature": b""},
            {"signature": b"x" * 5000},
        ):
            await self.connect()
            await self.send_rpc(self.message(b"E", **fields))

    async def oversize(self) -> None:
        for prefix in (varint(2**21), varint(2**63), b"\x80" * 20, b"\xff" * 4):
            await self.connect()
            await self.send_raw(b"\x00" * 100, prefix)

    async def bait(self) -> None:
        payloads = [b"", b"E", b"R", b"Z", b"E" + os.urandom(500), b"R" + os.urandom(500)]
        payloads += [
            b"E" + b"\x91" * 60_000,
            b"E" + b"\xdf\xff\xff\xff\xff",
            b"E\x92\xc4\x01\x80\xc4\x40" + bytes(64),
        ]
        payloads.append(b"E" + bytes(500_000))
        for payload in payloads:
            await self.connect()
            await self.send_rpc(self.message(payload))
        await self.connect()
        await self.send_rpc(
            self.message(b"E", ["foreign"]), self.message(b"E", self.topics), rpc_pb2.Message()
        )

    async def many(self) -> None:
        await self.connect()
        await self.send_rpc(*(rpc_pb2.Message(topicIDs=[self.topics[0]]) for _ in range(5000)))
        await self.connect()
        topics = [rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"t{n}") for n in range(6000)]
        await self.send_rpc(subscriptions=topics)

    async def control(self) -> None:
        await self.connect()
        ids = [os.urandom(40) for _ in range(3000)]
        both = [*self.topics, "foreign", ""]
        await self.send_rpc(
            subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic) for topic in both],
            control=rpc_pb2.ControlMessage(
                ihave=[rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids) for topic in both],
                iwant=[rpc_pb2.ControlIWant(messageIDs=ids), rpc_pb2.ControlIWant()],
                graft=[rpc_pb2.ControlGraft(topicID=topic) for topic in both * 100],
                prune=[
                    rpc_pb2.ControlPrune(
                        topicID=topic,
                        backoff=2**64 - 1,
                        peers=[rpc_pb2.PeerInfo(peerID=b"x", signedPeerRecord=b"y")],
                    )
                    for topic in both
                ],
                idontwant=[rpc_pb2.ControlIDontWant(messageIDs=ids)],
            ),
            senderRecord=b"garbage",
        )

    async def member_junk(self) -> None:
        hello = {
            "type": "hello",
            "v": 1,
            "net": "x",
            "chain": self.chain,
            "nonce": bytes(32),
            "revoked": 0,
        }
        junk = [
            os.urandom(1000),
            b"\xff\xff\xff\xff",
            b"\x00\x00\x00\x00",
            encode({"type": "proof"}),
            encode({"type": "verdict", "ok": True}),
            encode({"type": "verdict", "ok": False, "why": ["x"] * 100}),
            encode(hello),
            encode(hello | {"net": NetworkTrust(self.ca_der).network_id, "nonce": 7}),
            encode(hello | {"net": NetworkTrust(self.ca_der).network_id, "chain": [b"", b""]}),
            encode(hello | {"net": NetworkTrust(self.ca_der).network_id, "chain": {"a": 1}}),
            encode(hello | {"net": NetworkTrust(self.ca_der).network_id, "revoked": -1}),
        ]
        for data in junk:
            await self.connect()
            with suppress(Exception):
                stream = await self.stream(PROTOCOL)
                await stream.write(data)
                await stream.read(10)
            await self.ended(0.2)

    async def silent_streams(self) -> None:
        await self.connect()
        for protocol in (PROTOCOL, MESHSUB, "/ipfs/ping/1.0.0", "/ipfs/id/push/1.0.0"):
            for _ in range(10):
                with suppress(Exception):
                    await self.stream(protocol)
        for conn in self.conns():
            for _ in range(60):
                with suppress(Exception):
                    await conn.muxed_conn.open_stream()

    async def other_protocols(self) -> None:
        for protocol in ("/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"):
            for data in (os.urandom(500), b"\xff" * 10, b"\x05abc"):
                await self.connect()
                with suppress(Exception):
                    stream = await self.stream(protocol)
                    await stream.write(data)
                    await stream.close()

    async def raw_tcp(self) -> None:
        addr = self.target.addrs[0]
        where = addr.value_for_protocol("ip4"), int(addr.value_for_protocol("tcp"))
        for data in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            os.urandom(5000),
            b"\x13/multistream/1.0.0\n\xff\xff\xff",
        ):
            tcp = await trio.open_tcp_stream(*where)
            await tcp.send_all(data)
            if len(data) > 100:
                await tcp.aclose()

    async def unread_flood(self) -> None:
        """Send more on a stream nobody reads than a connection may buffer."""
        await self.connect()
        for conn in self.conns():
            # The victim hangs up on the way.
            with suppress(Exception):
                for _ in range(20):
                    stream = await conn.muxed_conn.open_stream()
                    header = (
                        bytes(4) + stream.stream_id.to_bytes(4, "big") + (2**18).to_bytes(4, "big")
                    )
                    for _ in range(32):
                        # Beyond its window: an honest muxer would wait.
                        await conn.muxed_conn._write_frame(header + bytes(2**18))

    # What a test asks for

    async def publish(self, payload: str, topic: str) -> None:
        await self.connect()
        await self.send_rpc(self.message(bytes.fromhex(payload), [topic]))

    async def forward(self, message: str) -> None:
        await self.connect()
        await self.send_rpc(rpc_pb2.Message.FromString(bytes.fromhex(message)))

    async def time_to_expulsion(self) -> float:
        await self.host.get_network().close_peer(self.target.peer_id)
        await self.host.connect(self.target)
        start_s = trio.current_time()
        await self.ended(60)
        return trio.current_time() - start_s

    async def refusal(self) -> str:
        await self.host.get_network().close_peer(self.target.peer_id)
        await self.host.connect(self.target)
        why = await self.prove()
        await self.ended(5)
        return why if not self.conns() else ""


async def main() -> None:
    lines = trio.wrap_file(sys.stdin)
    attacker = Attacker(json.loads(await lines.readline()))
    async with attacker.host.run([]):
        async for line in lines:
            command = json.loads(line)
            name = command.pop("attack")
            result: object = None
            try:
                with trio.fail_after(100):  # it only ends one that hangs
                    result = await getattr(attacker, name)(**command)
            except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001  # the victim may hang up at any time
                result = f"failed: {exc!r}"
            sys.stdout.write(json.dumps({"result": result}) + "\n")
            sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    trio.run(main)
