"""What several of the store's test files need."""

from pathlib import Path

import numpy as np

from anaglyph.store import PairedStore


def numbered(tokens: int, width: int = 3, start: float = 0) -> np.ndarray:
    """Activations whose first column counts the tokens, exact in float32 and told from another."""
    array = np.random.default_rng(int(start)).normal(size=(tokens, width)).astype(np.float32)
    array[:, 0] = np.arange(tokens) + start
    return array


def numbered_store(out: Path, tokens: int, length: int = 10, shard_tokens: int = 64) -> PairedStore:
    """A store of sequences of ``length`` tokens; tuned counts from 100,000."""
    return PairedStore.from_arrays(
        numbered(tokens),
        numbered(tokens, start=100_000),
        out,
        sequence_ids=np.arange(tokens) // length,
        shard_tokens=shard_tokens,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
