"""Flags for latents that a crosscoder shows as specific although both models have them.

Both artefacts and their thresholds are those of Minder, Dumas et al. 2025 (arXiv 2504.02922;
docs/maths.md, section 3), where a latent passes as specific if ``nu_error < 0.2`` and ``nu_recon <
0.5``. Each model is judged on its own decoder: tuned-only latents by nu, base-only ones by the
mirrored nu.

- ``complete_shrinkage``: the class is tuned-only or base-only, but ``nu_error >= 0.2``. The other
  model has the concept too; sparsity drove its decoder there to zero.
- ``latent_decoupling``: the class is tuned-only or base-only, ``nu_recon >= 0.5``, AND the latent
  has a twin. The concept is shared and stored as one latent per model. Each sign alone can have
  other causes. A twin that fires elsewhere is a direction with a new trigger, which is a real
  change and leaves nu_recon low. And nu_recon also rises where latents of other directions overlap.

Latents of the other classes are not flagged: False.
"""

import polars as pl

from anaglyph.latents.norms import BASE_ONLY, TUNED_ONLY

# Targets whose nu is also taken with the models exchanged, for latents of class base-only.
MIRRORED = ("error", "recon")
SHRINKAGE_NU = 0.2
DECOUPLING_NU = 0.5


def add_flags(table: pl.DataFrame, *, one_width: bool) -> pl.DataFrame:
    """Return the table with both flags; null where they cannot be known.

    Args:
        table: Has ``alive``, ``class``, ``twin`` and both ``nu_error`` and ``nu_recon``, plain and
            ``_mirror``.
        one_width: Whether the models' decoders can be compared; otherwise twins are unknown.
    """
    specific = pl.col("class").is_in([TUNED_ONLY, BASE_ONLY])

    def own_nu(target: str) -> pl.Expr:
        plain, mirrored = pl.col(f"nu_{target}"), pl.col(f"nu_{target}_mirror")
        return pl.when(pl.col("class") == BASE_ONLY).then(mirrored).otherwise(plain)

    def flag(rule: pl.Expr) -> pl.Expr:
        undetermined = pl.lit(None, pl.Boolean)
        known = pl.when(~specific).then(pl.lit(False)).when(specific & pl.col("alive")).then(rule)
        return known.otherwise(undetermined)

    # False & null is False: a latent without a twin needs no nu.
    decoupled = pl.col("twin").is_not_null() & (own_nu("recon") >= DECOUPLING_NU)
    return table.with_columns(
        complete_shrinkage=flag(own_nu("error") >= SHRINKAGE_NU),
        latent_decoupling=flag(decoupled if one_width else pl.lit(None, pl.Boolean)),
    )
