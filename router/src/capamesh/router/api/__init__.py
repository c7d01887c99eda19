"""What clients see: the Open Inference Protocol, and the router's own pages, over HTTP."""
