"""The wishes of a request for its way through the network, as the router's `X-Capamesh` headers. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from capamesh.protocol.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """The nodes that may run a request, its tenant, and the way one of them is chosen; the router decides on what is left out."""

    tenant: str = ""
    """The tenant whose request it is; the router's rules give each tenant its share."""
    policy: str = ""
    """The policy by which a node is chosen, instead of the model's own."""
    affinity: str = ""
    """Requests of one key go to the same node as long as it can take them."""
    regions: Sequence[str] = ()
    """Only nodes that say they are in one of these regions are asked."""
    devices: Sequence[str] = ()
    """Only devices of these kinds are asked: cpu, cuda."""
    nodes: Sequence[str] = ()
    """Only nodes with these peer ids are asked."""
    max_price: float | None = None
    """No node is asked that takes more for a million rows, in the network's unit; None: any price."""
    is_explained: bool = False
    """True if `Outputs.explanation` is to say among which nodes and why the node was chosen."""

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers that say it, for programs that send requests by other means.

        Raises:
            InvalidRequest: a header cannot hold what is asked, or a price is none.
        """
        price = self.max_price
        if price is not None and not 0 <= price < math.inf:
            raise InvalidRequest(f"max_price is {price!r}; give a number from 0, or None")
        values = {
            "X-Capamesh-Tenant": _text("tenant", self.tenant),
            "X-Capamesh-Policy": _text("policy", self.policy),
            "X-Capamesh-Affinity": _text("affinity", self.affinity),
            "X-Capamesh-Region": _names("regions", self.regions),
            "X-Capamesh-Device": _names("devices", self.devices),
            "X-Capamesh-Nodes": _names("nodes", self.nodes),
            "X-Capamesh-Max-Price": "" if price is None else repr(float(price)),
            "X-Capamesh-Explain": "1" if self.is_explained else "",
        }
        return {name: value for name, value in values.items() if value}


ANYWHERE = RoutingOptions()
"""Nothing is asked of a request's way."""


def _text(what: str, value: str) -> str:
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise InvalidRequest(
            f"{what} is {value[:80]!r}; printable ASCII text without blanks around it is expected"
        )
    return value


def _names(what: str, values: Sequence[str]) -> str:
    if isinstance(values, str):
        raise InvalidRequest(f"{what} is the text {values[:80]!r}; give a list: [{values[:80]!r}]")
    for value in values:
        if not value or "," in value:
            raise InvalidRequest(f"{what} has {value[:80]!r}; names without commas are expected")
    return ",".join(_text(what, value) for value in values)
