"""How much of the behavioural difference an edited activation carries, measured by patching."""

from anaglyph.causal.interventions import Activations, Intervention
from anaglyph.causal.outputs import output_kl
from anaglyph.causal.recovered import kl_recovered, latent_kl

__all__ = ["Activations", "Intervention", "kl_recovered", "latent_kl", "output_kl"]
