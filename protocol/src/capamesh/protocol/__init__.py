"""The parts that nodes, routers and clients share: identities, adverts, tensors, frames, links and the mesh."""
