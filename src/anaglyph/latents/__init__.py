"""What each latent of a dictionary is worth: one table and the strongest examples.

``score`` gives decoder norms, Latent Scaling, usage, twins and flags, one row a latent;
``bucket_usage`` says on which kinds of token a latent fires how strongly, ``stability`` whether
another dictionary has it too; ``top_examples`` shows where it fires. Methods and formulas:
docs/maths.md, sections 2 and 3.
"""

from anaglyph.latents.buckets import bucket_usage
from anaglyph.latents.candidates import candidates
from anaglyph.latents.examples import top_examples
from anaglyph.latents.score import score
from anaglyph.latents.stability import stability

__all__ = ["bucket_usage", "candidates", "score", "stability", "top_examples"]
