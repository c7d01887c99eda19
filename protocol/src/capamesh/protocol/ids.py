"""The names of things, as types: a peer is not a model, though both are text. Pure."""

from __future__ import annotations

from typing import NewType

PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58btc, for example `12D3KooW…`; it holds the Ed25519 public key itself."""

NetworkId = NewType("NetworkId", str)
"""Names a network by its owner's key: `cm-` and 32 hexadecimal digits."""

ModelName = NewType("ModelName", str)
"""A model's name as clients write it in a URL."""

ModelVersion = NewType("ModelVersion", str)
"""A model's version: decimal digits, as Triton's folders are named."""
