"""The private channel between a process and its owner: framed msgpack over an inherited socket.

`framing` is pure; `asyncio_end` and `trio_end` are the two IO shells, one an event loop.

The owner makes a socketpair and the child inherits its end as a file descriptor whose number stands in
`--channel-fd N`. There is no path on disk and so no access to control; the end of the stream tells a child
that its owner died, and it exits at once.

A message is one msgpack map with a "type" string. Two types belong to the channel itself: the owner's
"ping" is answered by the child's shell with "pong", which shows that the child's event loop turns.
"""
