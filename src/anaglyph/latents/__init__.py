"""What each latent of a dictionary is worth: one table and the strongest examples.

``score`` reads the store once and gives decoder norms, Latent Scaling, usage and twins;
``top_examples`` shows where a latent fires. Methods and formulas: maths sections 2 and 3.
"""

from anaglyph.latents.examples import top_examples
from anaglyph.latents.score import score

__all__ = ["score", "top_examples"]
