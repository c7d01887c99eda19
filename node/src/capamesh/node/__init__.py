"""The node agent: hosts ONNX models on this machine's devices and offers them to the network."""

# Decides what runs, before any module that may be compiled is read in.
from capamesh.protocol import implementation as implementation
