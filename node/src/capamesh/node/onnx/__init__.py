"""What the ONNX backend needs and what imports no runtime: signatures, settings, a look into the file."""
