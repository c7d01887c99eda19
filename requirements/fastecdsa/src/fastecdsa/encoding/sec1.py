"""The encoding of public keys by SEC 1, which is refused. Pure."""

from __future__ import annotations

from fastecdsa import refuse


class SEC1Encoder:
    """The encoder of public keys; every call raises NotSupported."""

    encode_public_key = staticmethod(refuse)
    decode_public_key = staticmethod(refuse)
