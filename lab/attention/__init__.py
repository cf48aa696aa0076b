"""Scores and sinks: how tokens weigh each other, in any model, and what happens when the weighing is exchanged."""

from lab.attention import activations, interventions, quantize
from lab.attention.watch import watch

__all__ = ["activations", "interventions", "quantize", "watch"]
