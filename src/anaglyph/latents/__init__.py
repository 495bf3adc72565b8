"""The latent table and the strongest examples of each latent.

``score`` gives decoder norms, Latent Scaling, usage, twins and flags, one row per latent.
``bucket_usage`` gives token roles by how strongly a latent fires. ``stability`` says whether
another dictionary has the same latent. ``top_examples`` shows where it fires. Formulas:
docs/maths.md, sections 2 and 3.
"""

from anaglyph.latents.buckets import bucket_usage
from anaglyph.latents.candidates import candidates
from anaglyph.latents.examples import top_examples
from anaglyph.latents.score import score
from anaglyph.latents.stability import stability

__all__ = ["bucket_usage", "candidates", "score", "stability", "top_examples"]
