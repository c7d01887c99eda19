"""The encodings of keys that libp2p names. Pure."""
