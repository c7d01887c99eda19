"""The Prequal policy and its pool of probed replicas (Wydrowski et al., NSDI 2024)."""
