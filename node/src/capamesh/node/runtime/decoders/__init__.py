"""The folder of a language model that answers token by token, as onnxruntime-genai's model builder lays it out. Reads files."""
