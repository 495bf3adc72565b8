"""How often, how strongly and on which kinds of token each latent fires."""

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped
from numpy import ndarray

from anaglyph.corpus import ROLES

# Tokens that the chat template or the tokenizer adds, independent of the text.
TEMPLATE_ROLES = ("bos", "template")


def usage(
    firings: Int64[ndarray, "latents roles"],
    code_sums: Float64[ndarray, " latents"],
    largest: Float32[ndarray, " latents"],
    n_tokens: int,
) -> dict[str, Shaped[ndarray, " latents"]]:
    """Return the usage columns of the table; NaN where a latent that never fired has none.

    ``frequency`` is the share of all tokens on which the latent fires; ``mean_activation`` is over
    those tokens; ``share_ROLE`` is the share of them that have the role, ``template_share`` that of
    bos and template tokens together.

    Args:
        firings: Active tokens by role.
        code_sums: Sum of each latent's codes.
        largest: Highest code of each latent.
        n_tokens: Tokens read, active or not.
    """
    active = firings.sum(axis=1)
    alive = active > 0

    def per_firing(amount: ndarray) -> ndarray:
        share = np.full(active.shape, np.nan)
        return np.divide(amount, active, out=share, where=alive)

    template = sum(firings[:, ROLES.index(role)] for role in TEMPLATE_ROLES)
    return {
        "alive": alive,
        "frequency": active / max(n_tokens, 1),
        "mean_activation": per_firing(code_sums),
        "max_activation": np.where(alive, largest.astype(np.float64), np.nan),
        "active_tokens": active,
        "template_share": per_firing(np.asarray(template)),
        **{f"share_{role}": per_firing(firings[:, place]) for place, role in enumerate(ROLES)},
    }
