"""Links: framed, multiplexed connections between routers and nodes over mutual TLS 1.3.

`frames` is the wire and `calls` what is said over it. `connection` is the core of a link, without IO: `receiver` and
`outgoing` are its halves, `streams` what they share. `link` is its asyncio shell, with `asking` (who waits for what),
`liveness` (deadlines), `introduction` (who is there) and `writer`. `transport` dials and listens.
"""
