from __future__ import annotations

import socket

import pytest
from free_ports import OF_NOBODY, free_port

from capamesh.protocol.advertised_address import require_free
from capamesh.protocol.errors import ConfigError


def test_port_that_another_listens_on_is_refused_also_when_it_would_share_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", free_port(among=OF_NOBODY)))  # nobody else takes it afterwards
        other.listen(1)
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127.0.0.1:{port}: .*; give another --mesh"):
            require_free("127.0.0.1", port, "--mesh")
    require_free("127.0.0.1", port, "--mesh")
    require_free("127.0.0.1", 0, "--mesh")
