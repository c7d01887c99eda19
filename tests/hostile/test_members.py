"""What one member, or one token, may take of a router: its memory, its descriptors, its dials, and others' places."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from clusters import metrics_at, nodes_at
from engine_link import logged
from hostile import MIB, AttackedNetwork, Figures, attacked
from patience import until

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
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
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


IDENTITIES = int(os.environ.get("HOSTILE_IDENTITIES", "300"))
"""Made in 2 s; all but 64 are refused, however many come (seen with 3,000)."""
DIALS = 8
"""All four ports that may be dialled, and all again after a rest."""


def mesh_address(network: AttackedNetwork) -> str:
    return str(network.router.status()["mesh_addresses"][0])


class Victim:
    """A port that is dialled, and when."""

    def __init__(self) -> None:
        self.dialled_s: list[float] = []
        self.address = ""

    def most_in_a_second(self) -> int:
        return max(
            (sum(start <= at < start + 1.0 for at in self.dialled_s) for start in self.dialled_s),
            default=0,
        )


@asynccontextmanager
async def listening(count: int) -> AsyncIterator[list[Victim]]:
    """Open ports that hang up on whoever dials them."""
    loop = asyncio.get_running_loop()
    victims = [Victim() for _ in range(count)]
    servers: list[asyncio.Server] = []
    for victim in victims:

        def dialled(
            _: asyncio.StreamReader, writer: asyncio.StreamWriter, victim: Victim = victim
        ) -> None:
            victim.dialled_s.append(loop.time())
            writer.close()

        server = await asyncio.start_server(dialled, "127.0.0.1", 0)
        servers.append(server)
        victim.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield victims
    finally:
        for server in servers:
            server.close()


async def test_one_advert_of_many_addresses_and_models_costs_little_and_dials_little(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=2) as network, listening(16) as victims:
        names = [victim.address for victim in victims]
        addresses = names + [f"127.0.0.1:{port}" for port in range(1, 1024 - len(names) + 1)]
        before = network.bytes_of(network.router)
        group = {
            "token": network.token().encode(),
            "devices": 64,
            "addresses": [address for each in range(64) for address in addresses[each::64]],
            "models": 300,
        }
        async with (
            network.honest() as seen,
            advertising(tmp_path, mesh_address(network), [group]),
        ):
            await until(lambda: sum(len(victim.dialled_s) for victim in victims) >= DIALS)
            await asyncio.sleep(1)  # and whatever else there is to dial within a second
        dials = Victim()
        dials.dialled_s = sorted(at for victim in victims for at in victim.dialled_s)
        fleet = await nodes_at(network.http_url)
        (made_up,) = [node for node in fleet.values() if len(node["models"]) == 300]
        grown = (network.peak_bytes(network.router) - before) / MIB
        figures.at_most("an advert of 1,024 addresses and 300 models: router grows, MiB", grown, 20)
        figures.at_most("its dials in a second", dials.most_in_a_second(), 10)
        figures.at_least("its dials in all", len(dials.dialled_s), DIALS)
        figures.at_most("requests of others that failed meanwhile", seen.failed, 0)
        assert len(made_up["links"]) == 13  # 4,096 hosts over 300 models
        assert "at most 4 a device and 13 in all" in made_up["addresses_refused"]


async def test_endless_identities_of_one_token_take_no_honest_nodes_place(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=2) as network:
        before = network.bytes_of(network.router)
        honest = {str(node.status()["peer_id"]) for node in network.nodes}
        group = {"token": network.token().encode(), "count": IDENTITIES}

        async def are_there() -> bool:
            return len(await nodes_at(network.http_url)) >= 64 + len(honest)

        async def is_refused() -> bool:
            return (await metrics_at(network.http_url))["capamesh_members_refused"] >= 1

        async with (
            network.honest() as seen,
            advertising(tmp_path, mesh_address(network), [group]) as sent,
        ):
            await until(are_there)
            # who is over the quota has come as well, and the operator was told of it
            await until(lambda: network.router.status().get("invites_over_quota"))
            await until(is_refused)
            fleet = await nodes_at(network.http_url)
        grown = (network.peak_bytes(network.router) - before) / MIB
        figures.at_most(f"{sent} identities of one token: router grows, MiB", grown, 100)
        figures.at_most("of them in the fleet", len(fleet.keys() - honest), 64)
        figures.at_most("requests of others that failed meanwhile", seen.failed, 0)
        assert honest <= fleet.keys()
        assert len(fleet.keys() - honest) == 64
        (over,) = network.router.status()["invites_over_quota"]
        assert over["admits"] == over["members"] == 64
        assert len(logged(network.router, "invite_over_quota")) == 1


if __name__ == "__main__":
    _publish(json.loads(Path(sys.argv[1]).read_text()))
