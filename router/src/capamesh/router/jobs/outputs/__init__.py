"""Parts of results: written whole or not at all, read through manifests alone, and collected where none names them."""
