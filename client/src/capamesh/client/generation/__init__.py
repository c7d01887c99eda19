"""Texts that models generate: what is asked, whole answers, and streams of pieces."""
