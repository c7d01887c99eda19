"""The node agent: hosts ONNX models on this machine's devices and offers them to the network."""
