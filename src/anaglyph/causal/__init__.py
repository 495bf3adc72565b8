"""How much of the behavioural difference an edited activation carries, measured by patching."""

from anaglyph.causal.controls import DifferenceSpace
from anaglyph.causal.edits import Activations, Intervention
from anaglyph.causal.outputs import output_kl
from anaglyph.causal.positions import PLACES
from anaglyph.causal.recovered import kl_recovered, latent_kl
from anaglyph.causal.sweep import layer_sweep

__all__ = [
    "PLACES",
    "Activations",
    "DifferenceSpace",
    "Intervention",
    "kl_recovered",
    "latent_kl",
    "layer_sweep",
    "output_kl",
]
