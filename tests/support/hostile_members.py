"""Members that advertise what they like, through one connection to a router's mesh. IO: processes, libp2p on trio.

Started with a file of JSON: {"target": MULTIADDRESS, "groups": [{"token": TEXT, "count": 1, "models": 1, "devices": 1,
"addresses": ["127.0.0.1:9"]}, ...]}. Each of a group's `count` identities advertises itself once; then it prints how many
were sent, and goes on saying the same every `again_s` until its input ends.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MESSAGES_AN_RPC = 20
AGAIN_S = 8.0


@asynccontextmanager
async def advertising(
    folder: Path, target: str, groups: Sequence[Mapping[str, Any]]
) -> AsyncIterator[int]:
    """Let members advertise meanwhile; give how many adverts were sent before."""
    spec = folder / f"hostile-{time.time_ns()}.json"
    spec.write_text(json.dumps({"target": target, "groups": list(groups)}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__)), str(spec)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120):
            yield int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _publish(spec: Mapping[str, Any]) -> None:
    """Be the process."""
    sys.path.insert(0, str(ROOT / "integration" / "mesh"))
    import trio  # noqa: PLC0415 - only the process needs it
    from attacker import MESHSUB, Attacker, varint  # noqa: PLC0415 - it is in the folder that was just added
    from libp2p.crypto.ed25519 import create_new_key_pair  # noqa: PLC0415 - as above
    from libp2p.peer.id import ID  # noqa: PLC0415 - as above
    from libp2p.pubsub.pb import rpc_pb2  # noqa: PLC0415 - as above

    from capamesh.protocol.adverts import (  # noqa: PLC0415 - as above
        KIND_ADVERT,
        Device,
        ModelOffer,
        ModelState,
        NodeAdvert,
        advert_to_body,
        seal,
    )
    from capamesh.protocol.adverts import Sequence as Number  # noqa: PLC0415 - as above
    from capamesh.protocol.identity import Identity  # noqa: PLC0415 - as above
    from capamesh.protocol.mesh.gossip import PayloadKind, adverts_topic, wrap  # noqa: PLC0415 - as above
    from capamesh.protocol.network import JoinToken, Membership  # noqa: PLC0415 - as above
    from capamesh.protocol.tensors import Datatype, TensorSpec  # noqa: PLC0415 - as above

    tensors = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
    now = dt.datetime.now(dt.UTC)
    members: list[tuple[Membership, Mapping[str, Any], int]] = []
    for group in spec["groups"]:
        token = JoinToken.decode(group["token"], now)
        members += [
            (Membership.join(Identity.generate(), token, now), group, time.time_ns())
            for _ in range(group.get("count", 1))
        ]

    def advert(member: Membership, group: Mapping[str, Any], boot_ns: int, counter: int) -> bytes:
        sequence = Number(boot_ns, counter)
        addresses = list(group.get("addresses", ["127.0.0.1:9"]))
        devices = group.get("devices", 1)
        each = len(addresses) // devices
        node = NodeAdvert(
            peer=member.identity.peer_id,
            sequence=sequence,
            devices=tuple(
                Device(
                    number,
                    *("cpu", "cpu", "CPUExecutionProvider", 100, 50 + counter % 9),
                    tuple(addresses[number * each : (number + 1) * each]),
                )
                for number in range(devices)
            ),
            models=tuple(
                ModelOffer(
                    *(f"{group.get('name', 'made-up')}-{number}", "1", "sha256-chunks:" + "0" * 64),  # type: ignore[arg-type]  # plain texts
                    *(ModelState.READY, "", tensors, tensors),
                )
                for number in range(group.get("models", 1))
            ),
            region="",
            price_per_million=0.0,
            agent_version="0.1",
            is_draining=False,
        )
        return wrap(
            PayloadKind.ENVELOPE,
            seal(KIND_ADVERT, advert_to_body(node), member, sequence, time.time_ns() // 10**6),
        )

    topic = adverts_topic(members[0][0].network_id)
    keys = [create_new_key_pair(one.identity.private_bytes) for one, _, _ in members]

    def message(number: int, counter: int) -> rpc_pb2.Message:
        member, group, boot_ns = members[number]
        signed = rpc_pb2.Message(
            data=advert(member, group, boot_ns, counter),
            topicIDs=[topic],
            from_id=ID.from_pubkey(keys[number].public_key).to_bytes(),
            seqno=time.time_ns().to_bytes(8, "big"),
        )
        signed.signature = keys[number].private_key.sign(
            b"libp2p-pubsub:" + signed.SerializeToString()
        )
        return signed

    async def run() -> None:
        first = members[0][0]
        attacker = Attacker(
            {
                "key": first.identity.private_bytes.hex(),
                "chain": [one.hex() for one in first.chain],
                "ca": first.ca_der.hex(),
                "target": spec["target"],
                "topics": [topic],
                "is_member": True,
            }
        )
        async with attacker.host.run([]):
            await attacker.connect()
            stream = await attacker.stream(MESHSUB)  # one: a peer has few
            counter = 0
            while True:
                counter += 1
                for start in range(0, len(members), MESSAGES_AN_RPC):
                    some = range(start, min(start + MESSAGES_AN_RPC, len(members)))
                    rpc = rpc_pb2.RPC(publish=[message(number, counter) for number in some])
                    body = rpc.SerializeToString()
                    await stream.write(varint(len(body)) + body)
                if counter == 1:
                    sys.stdout.write(f"{len(members)}\n")
                    sys.stdout.flush()
                await trio.sleep(spec.get("again_s", AGAIN_S))

    trio.run(run)


if __name__ == "__main__":
    _publish(json.loads(Path(sys.argv[1]).read_text()))
