"""The least that a server on grpcio's asyncio can do: it answers each ModelInfer with the same bytes, unread. Prints its port."""

from __future__ import annotations

import asyncio
import sys

import grpc

PATH = "/inference.GRPCInferenceService/ModelInfer"


async def answer(_: bytes, __: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Return what a small model would answer, about."""
    return bytes(64)


class Handler(grpc.GenericRpcHandler):
    """The one method; messages are neither read nor written."""

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Return the method."""
        return grpc.unary_unary_rpc_method_handler(answer) if details.method == PATH else None


async def main() -> None:
    """Serve until it is ended."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
