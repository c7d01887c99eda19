"""The pure core of routing: what is known of each node that hosts a model, and who is asked. Pure."""
