"""What is served at the addresses of clients and of operators."""

from __future__ import annotations

import pytest

from capamesh.router.access.audience import Audience
from capamesh.router.access.keys import Verb


@pytest.mark.parametrize(
    ("verbs", "for_clients", "for_operators"),
    [
        ((), True, True),
        ((Verb.INFER,), True, False),
        ((Verb.JOBS,), True, False),
        ((Verb.READ,), False, True),
        ((Verb.METRICS,), False, True),
        ((Verb.ADMIN,), False, True),
        ((Verb.INFER, Verb.READ), True, True),
        (tuple(Verb), True, True),
    ],
)
def test_address_serves_what_its_audience_may_do(
    verbs: tuple[Verb, ...], for_clients: bool, for_operators: bool
) -> None:
    assert Audience.CLIENTS.is_served(verbs) is for_clients
    assert Audience.OPERATORS.is_served(verbs) is for_operators
    assert Audience.ALL.is_served(verbs)
