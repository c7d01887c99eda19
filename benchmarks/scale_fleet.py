"""A fleet of nodes that say what nodes say, each sealed with a key and a chain of its own. Reads the clock, writes a file."""

from __future__ import annotations

import hashlib
import pickle
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from capamesh.protocol import adverts as wire
from capamesh.protocol.adverts import Device, ModelOffer, ModelState, NodeAdvert, SequenceSource
from capamesh.protocol.adverts import Sequence as AdvertSequence
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.model_digest import digest_of
from capamesh.protocol.network import Membership, NetworkOwner, Role
from capamesh.protocol.tensors import Datatype, TensorSpec

MODELS_OF_NODE, ALL_MODELS = 5, 50
Round = list[bytes]


def offer(number: int, state: ModelState = ModelState.READY) -> ModelOffer:
    """Return what a node with 16 GB says of a language encoder."""
    name = f"encoder-{number:02}-base-uncased"
    return ModelOffer(
        ModelName(name),
        ModelVersion("1"),
        digest_of(hashlib.sha256(name.encode()).digest()),
        state,
        "" if state is ModelState.READY else "unloaded by its operator",
        (
            TensorSpec("input_ids", Datatype.INT64, (-1, -1)),
            TensorSpec("attention_mask", Datatype.INT64, (-1, -1)),
        ),
        (TensorSpec("embedding", Datatype.FP32, (-1, 384)),),
        "CUDAExecutionProvider",
        "fp16",
        best_rows=32,
        row_us=180 + number,
        max_rows=1024,
        memory_bytes=130_000_000 + number,
    )


def advert(peer: PeerId, index: int, sequence: AdvertSequence, *, is_changed: bool) -> NodeAdvert:
    """Return node `index`'s advert; a changed one has unloaded its first model."""
    rng = random.Random(index)  # noqa: S311 - to repeat it
    numbers = rng.sample(range(ALL_MODELS), MODELS_OF_NODE)
    address = f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}:7000"
    device = Device(
        0,
        "cuda",
        "NVIDIA RTX A4000",
        "CUDAExecutionProvider",
        16 * 2**30,
        9 * 2**30 + index,
        (address,),
        "onnxruntime 1.31.1",
        "570.124.06",
    )
    models = tuple(
        offer(n, ModelState.UNLOADED if is_changed and not place else ModelState.READY)
        for place, n in enumerate(numbers)
    )
    return NodeAdvert(
        peer, sequence, (device,), models, "eu-central", 0.25, "0.1.0", is_draining=False
    )


def admit(owner: NetworkOwner, role: Role) -> Membership:
    """Return a new member; each has an invite of its own, the most there is to verify and to remember."""
    now = datetime.now(UTC)
    token = owner.invite(role, expires_at=now + timedelta(days=30), bootstrap=(), now=now)
    return Membership.join(Identity.generate(), token, now)


def sealed(member: Membership, index: int, sequence: AdvertSequence, *, is_changed: bool) -> bytes:
    """Return an envelope as the node's agent makes it."""
    said = advert(member.identity.peer_id, index, sequence, is_changed=is_changed)
    body = wire.advert_to_body(said)
    return wire.seal(wire.KIND_ADVERT, body, member, sequence, time.time_ns() // 10**6)


def make_fleet(count: int, file: Path) -> None:
    """Write three rounds of `count` nodes' envelopes: the first, the same again, and a change."""
    owner = NetworkOwner.create("scale", datetime.now(UTC))
    rounds: tuple[Round, Round, Round] = ([], [], [])
    peers: list[PeerId] = []
    for index in range(count):
        member = admit(owner, Role.NODE)
        sequences = SequenceSource(time.time_ns())
        peers.append(member.identity.peer_id)
        for envelopes, is_changed in zip(rounds, (False, False, True), strict=True):
            envelopes.append(sealed(member, index, sequences.next(), is_changed=is_changed))
    file.write_bytes(pickle.dumps((owner.ca_der, time.time_ns() // 10**6, peers, rounds)))


def load(file: Path, count: int) -> tuple[bytes, int, list[PeerId], list[Round]]:
    """Return the first `count` nodes of a fleet."""
    ca_der, now_ms, peers, rounds = pickle.loads(file.read_bytes())  # noqa: S301 - our own
    return ca_der, now_ms, peers[:count], [envelopes[:count] for envelopes in rounds]
