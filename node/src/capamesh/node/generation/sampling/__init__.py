"""Draws the next token from a row of scores: exact, without sorting the row, by random numbers that need no state. Pure."""

from capamesh.node.generation.sampling.drawing import sample
from capamesh.node.generation.sampling.edits import edited
from capamesh.node.generation.sampling.history import TokenHistory
from capamesh.node.generation.sampling.logprobs import token_logprob
from capamesh.node.generation.sampling.random_numbers import random_numbers

__all__ = ["TokenHistory", "edited", "random_numbers", "sample", "token_logprob"]
