"""Which latents count as the tuned model's own, by hand."""

import polars as pl
import pytest

from anaglyph.latents.norms import BASE_ONLY, SHARED, TUNED_ONLY
from anaglyph.truth.game.players.dictionary import tuned_specific

TABLE = pl.DataFrame(
    {
        "alive": [True, True, True, True, False],
        "class": [TUNED_ONLY, TUNED_ONLY, SHARED, BASE_ONLY, TUNED_ONLY],
        "beta_act_base": [0.1, 0.9, 0.1, 0.5, 0.0],
        "beta_act_tuned": [1.0, 1.0, 1.0, 0.0, 1.0],
    }
)


@pytest.mark.parametrize(("two_models", "expected"), [(True, 2), (False, 2)])
def test_they_are_counted_by_class_or_by_strength(two_models: bool, expected: int):
    assert tuned_specific(TABLE, two_models=two_models) == expected


def test_the_two_rules_differ():
    rows = TABLE.with_columns(pl.lit(SHARED).alias("class"))
    assert tuned_specific(rows, two_models=True) == 0
    assert tuned_specific(rows, two_models=False) == 2
