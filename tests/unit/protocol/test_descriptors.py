"""The limit of descriptors: raised as far as it may be, and shared out so that strangers cannot take it all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from capamesh.protocol.descriptors import (
    DescriptorShares,
    shares_of,
)


@pytest.mark.parametrize(
    ("limit", "shares"),
    [
        (256, DescriptorShares(own=64, links=64, clients=128)),
        (1024, DescriptorShares(own=64, links=256, clients=704)),
        (1_048_576, DescriptorShares(own=64, links=8192, clients=1_040_320)),
        (1, DescriptorShares(own=1, links=1, clients=1)),
    ],
)
def test_each_use_has_a_share_of_the_limit(limit: int, shares: DescriptorShares) -> None:
    assert shares_of(limit) == shares


def test_process_raises_its_limit_to_what_it_may_have_and_keeps_a_higher_one() -> None:
    program = """
import resource, structlog
from capamesh.protocol.descriptors import descriptor_limit, raise_descriptor_limit
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
lower = 300
resource.setrlimit(resource.RLIMIT_NOFILE, (100, lower))
events = []
class Log:
    def warning(self, event, **fields): events.append((event, fields["limit"]))
print(raise_descriptor_limit(Log()), descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE), events)
print(raise_descriptor_limit())
"""
    reported = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert reported.stdout.splitlines() == [
        "300 300 (300, 300) [('descriptors_low', 300)]",
        "300",
    ]
