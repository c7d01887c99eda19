"""The settings of Envoy as one of the routers that are compared. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def settings(
    port: int, upstreams: Sequence[int], most: int, certificates: Path | None = None
) -> dict[str, Any]:
    """Return Envoy's bootstrap for a listener at `port` before `upstreams`, with room for `most` requests at once.

    With `certificates` it speaks TLS 1.3 to them, with a certificate of its own.
    """
    kinds = "type.googleapis.com/envoy.extensions"
    manager = {
        "@type": f"{kinds}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstreams"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{kinds}.filters.http.router.v3.Router"},
            }
        ],
    }
    cluster: dict[str, Any] = {
        "name": "upstreams",
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": most, "max_pending_requests": most, "max_requests": most}
            ]
        },
        "load_assignment": {
            "cluster_name": "upstreams",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": _address(upstream)}} for upstream in upstreams
                    ]
                }
            ],
        },
    }
    if certificates is not None:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{kinds}.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_3",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "tls_certificates": [
                        {
                            "certificate_chain": {"filename": str(certificates / "client.pem")},
                            "private_key": {"filename": str(certificates / "client.key")},
                        }
                    ],
                    "validation_context": {
                        "trusted_ca": {"filename": str(certificates / "ca.pem")}
                    },
                },
            },
        }
    listener = {
        "name": "in",
        "address": _address(port),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
