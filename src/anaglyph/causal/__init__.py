"""What carries the behavioural difference: patching, attribution, steering, screening."""

from anaglyph.causal.attribution import attribute
from anaglyph.causal.interventions import Activations, Intervention, shifted, subset
from anaglyph.causal.patching import Unpatched
from anaglyph.causal.positions import PLACES
from anaglyph.causal.recovered import (
    Judged,
    causal_table,
    causal_tables,
    edit_kl,
    kl_recovered,
    latent_kl,
    layer_sweep,
)
from anaglyph.causal.screening import Scorer, judge_scorer, make_scorer, screen
from anaglyph.causal.steering import steer

__all__ = [
    "PLACES",
    "Activations",
    "Intervention",
    "Judged",
    "Scorer",
    "Unpatched",
    "attribute",
    "causal_table",
    "causal_tables",
    "edit_kl",
    "judge_scorer",
    "kl_recovered",
    "latent_kl",
    "layer_sweep",
    "make_scorer",
    "screen",
    "shifted",
    "steer",
    "subset",
]
