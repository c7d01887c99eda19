"""The SDK: numpy arrays in, numpy arrays out, through any router."""
