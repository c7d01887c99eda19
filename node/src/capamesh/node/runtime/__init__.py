"""Runs models: the backend interface, signatures, pipelines of models, and ONNX Runtime."""
