"""Steps of several processes next to those of one: run by torchrun; process 0 prints JSON.

For each case: how many entries the two selected in all, and the largest difference of any weight.
"""

import json
import sys

import torch

from anaglyph.core.processes import ALONE, Group, start
from anaglyph.core.settings import DictionarySettings
from anaglyph.dictionaries import Weights, get_method
from anaglyph.dictionaries.engine import Engine
from anaglyph.dictionaries.kernels import choose_kernels
from anaglyph.dictionaries.sparsity import make_sparsity

TOKENS, LATENTS, STEPS = 60, 96, 25
CASES = [
    ("diff-sae", "batchtopk"),
    ("crosscoder", "batchtopk"),
    ("delta-crosscoder", "batchtopk"),  # two budgets
    ("crosscoder", "matryoshka"),
    ("tuned-sae", "topk"),
    ("crosscoder", "l1"),
    ("tuned-sae", "jumprelu"),
]


def engine_of(method: str, sparsity: str, group: Group) -> Engine:
    generator = torch.Generator().manual_seed(1)
    spec = get_method(method)
    weights = Weights.zeros(LATENTS, spec.widths(16, 16))
    for tensor in weights.named().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    spec.constrain(weights)
    kernels = choose_kernels("torch")
    k = None if sparsity == "l1" else 4
    settings = DictionarySettings(sparsity=sparsity, k=k, latents=LATENTS, mu=1.0)
    budgets = spec.budgets(4, LATENTS)
    engine = Engine(
        spec,
        weights,
        make_sparsity(settings, kernels, STEPS, budgets),
        kernels,
        batch=TOKENS,
        dead_after=300,
        group=group,
    )
    engine.silent[:10] = 10_000  # dead from the start
    return engine


def steps(method: str, sparsity: str, group: Group) -> tuple[Engine, int]:
    engine, found = engine_of(method, sparsity, group), 0
    generator = torch.Generator().manual_seed(2)
    for step in range(STEPS):
        batch = [torch.randn(TOKENS, 16, generator=generator) for _ in engine.weights.decoder]
        # Repeated tokens: equal scores, some at the border of the selection.
        batch = [rows[torch.arange(TOKENS) // 4] for rows in batch]
        share = slice(group.rank, None, group.size)
        result = engine.step(tuple(rows[share] for rows in batch), step, 1e-2)
        found += int(group.sum(len(result.active.indices)))
    return engine, found


if __name__ == "__main__":
    torch.set_num_threads(1)
    group, said = start(), []
    for method, sparsity in CASES:
        many, count = steps(method, sparsity, group)
        if group.rank == 0:
            alone, expected = steps(method, sparsity, ALONE)
            differences = [
                float((mine - theirs).abs().max())
                for mine, theirs in zip(
                    many.weights.named().values(), alone.weights.named().values(), strict=True
                )
            ]
            silent = int((many.silent != alone.silent).sum())
            moved = float(
                (alone.weights.decoder[0] - engine_of(method, sparsity, ALONE).weights.decoder[0])
                .abs()
                .max()
            )
            said.append([method, sparsity, count, expected, max(differences), silent, moved])
    if group.rank == 0:
        sys.stdout.write(json.dumps(said) + "\n")
    torch.distributed.destroy_process_group()
