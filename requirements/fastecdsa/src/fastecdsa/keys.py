"""The making of keys, which is refused. Pure."""

from __future__ import annotations

from fastecdsa import refuse


class PEMEncoder:
    """The format that libp2p asks `export_key` for."""


gen_private_key = refuse
get_public_key = refuse
export_key = refuse
