"""The parts that nodes, routers and clients share: identities, adverts, tensors, frames, links and the mesh."""

# Decides what runs, before any module that may be compiled is read in.
from capamesh.protocol import implementation as implementation
