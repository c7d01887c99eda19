"""The jobs of the SDK: data sets that a router runs to their end, the files that they read, and their results."""
