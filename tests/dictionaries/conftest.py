"""Planted pairs: activations whose features are known, from a generator of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from anaglyph.store import PairedStore


@dataclass(frozen=True)
class Planted:
    """A pair with known feature directions."""

    base: np.ndarray
    tuned: np.ndarray
    sequence_ids: np.ndarray
    new: np.ndarray
    removed: np.ndarray


def plant(
    seed: int = 0,
    *,
    tokens: int = 4000,
    d: int = 64,
    shared: int = 60,
    changed: int = 6,
    rate: float = 0.05,
    noise: float = 0.02,
) -> Planted:
    """Make ``shared`` features of both models, and ``changed`` new and removed ones."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xDA7A]))
    features = shared + 2 * changed
    directions = rng.standard_normal((features, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    active = rng.random((tokens, features)) < rate
    codes = active * rng.uniform(0.5, 1.5, (tokens, features))
    new, removed = slice(shared, shared + changed), slice(shared + changed, None)
    both = codes[:, :shared] @ directions[:shared]
    base = both + codes[:, removed] @ directions[removed]
    tuned = both + codes[:, new] @ directions[new]
    base += noise * rng.standard_normal(base.shape)
    tuned += noise * rng.standard_normal(base.shape)
    return Planted(
        base.astype(np.float32),
        tuned.astype(np.float32),
        np.arange(tokens) // 40,
        directions[new],
        directions[removed],
    )


@pytest.fixture(scope="session")
def planted() -> Planted:
    return plant()


@pytest.fixture(scope="session")
def store(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> PairedStore:
    return PairedStore.from_arrays(
        planted.base,
        planted.tuned,
        tmp_path_factory.mktemp("planted") / "store",
        sequence_ids=planted.sequence_ids,
    )


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[[np.ndarray, np.ndarray], PairedStore]:
    """Make a store of ten-token sequences from any two arrays."""

    def make(base: np.ndarray, tuned: np.ndarray) -> PairedStore:
        return PairedStore.from_arrays(
            base, tuned, tmp_path / "store", sequence_ids=np.arange(len(base)) // 10
        )

    return make
