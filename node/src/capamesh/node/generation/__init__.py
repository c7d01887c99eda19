"""The engine that generates tokens for many requests at once: continuous batching, prefixes, stops, sampling. Pure.

`GenerationEngine` decides and samples; whoever owns the thread runs the model through `Slots`
(docs/decisions/0075). Nothing here reads a clock or knows what runs the model.
"""

from capamesh.node.generation.engine import GenerationEngine
from capamesh.node.generation.load import GenerationLoad
from capamesh.node.generation.parts import TokenLogprob, TokenPart, Usage
from capamesh.node.generation.request import GenerationRequest, SamplingParameters
from capamesh.node.generation.sequence import Constraint, Sequence, SequencePart, TokenText
from capamesh.node.generation.settings import GenerationSettings
from capamesh.node.generation.slots import Slots
from capamesh.node.generation.step_plan import StepPlan

__all__ = [
    "Constraint",
    "GenerationEngine",
    "GenerationLoad",
    "GenerationRequest",
    "GenerationSettings",
    "SamplingParameters",
    "Sequence",
    "SequencePart",
    "Slots",
    "StepPlan",
    "TokenLogprob",
    "TokenPart",
    "TokenText",
    "Usage",
]
