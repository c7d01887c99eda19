"""Makes a folder that a node generates texts from out of a language model's file or folder. Reads and writes files.

`gguf_file` reads GGUF, llama.cpp's format, `gguf_blocks` its quantised numbers, `gguf_llama` a model of Llama's architecture in
it, and `gguf_tokenizer` its tokenizer. `quantising` makes numbers of few bits, `decoder_graph` the ONNX file, `weight_file` the
file of weights beside it, `genai_files` all other files of the folder. `reference` computes what the source itself says, in numpy;
`scoring` runs what was made, and says how fast it is and how far from that. `importing` does it all, for a folder of onnxruntime-genai
(`genai_folder`) or of Hugging Face (`genai_builder`) too.

The making needs the `onnx` package, which serving does not: it is an extra.
"""
