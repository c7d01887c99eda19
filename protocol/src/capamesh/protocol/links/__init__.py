"""Links: framed, multiplexed connections between routers and nodes over mutual TLS 1.3.

`frames` is the wire, `connection` the core without IO, `link` and `endpoint` the asyncio shell, `calls`
what is said over it.
"""
