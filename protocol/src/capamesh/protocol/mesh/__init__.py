"""The libp2p mesh: who exists and what they host, heard by gossip.

`client` is what an asyncio process uses. It supervises the sidecar, a trio process of its own
(`python -m capamesh.protocol.mesh`) that holds the only imports of libp2p. The two talk in the messages
of `messages` over a private channel. `handshake` and `gossip` define what other implementations must
speak. This module imports none of them, so that the client never loads trio or libp2p.
"""
