"""The backend that runs models with ONNX Runtime, the only importer of it that serves."""
