"""The real activations that benchmarks use: the demo's fine-tune at layer 15, collected once."""

from pathlib import Path

import torch
from bench import CACHE

import anaglyph as ag
from anaglyph.demo import demo_pair

LAYER = 15


def demo_store() -> ag.PairedStore:
    """Return the store, collected if it is not there."""
    paths = demo_pair()
    pair = ag.ModelPair.load(paths.base, paths.tuned)
    return ag.collect(pair, "builtin:demo", [LAYER], CACHE / "demo-activations")


def demo_file() -> Path:
    """Return a file with the tuned model's activations, scaled to unit variance a dimension.

    Tokens of massive activation, five times the median away from it, are left out of both parts:
    what a trainer does about them is not what is measured.
    """
    path = CACHE / "demo-activations.pt"
    if not path.exists():
        store = demo_store()
        parts = {name: [b.tuned for b in store.blocks(name)] for name in ("train", "heldout")}
        rows = {name: torch.cat(blocks) for name, blocks in parts.items()}
        centre = rows["train"].median(0).values
        limit = 5 * (rows["train"] - centre).norm(dim=1).median()
        rows = {name: v[(v - centre).norm(dim=1) <= limit] for name, v in rows.items()}
        scale = rows["train"].var(0).mean().sqrt()
        torch.save({name: values / scale for name, values in rows.items()}, path)
    return path
