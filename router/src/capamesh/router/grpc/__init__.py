"""gRPC on the router's port: HTTP/2 on a connection of the front, and the Open Inference Protocol's service on that."""
