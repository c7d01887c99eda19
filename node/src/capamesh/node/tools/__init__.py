"""Tools for model files, which a serving node does not import."""
