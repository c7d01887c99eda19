"""The fleet as this router knows it: nodes, their endpoints and replicas, and the links to them."""
