"""Contender: sparsify's TopK step, put together as ``Trainer.fit`` does for one hook point.

It selects per token, not over the batch, so it has less to do. ``Trainer`` itself cannot be had
without a language model. Adam is torch's, which it falls back on where bitsandbytes is missing.
"""

from typing import Any

import torch
from sparsify import SparseCoder, SparseCoderConfig
from worker import DEAD_SHRINK, Contender, batches, n_dead, rate, serve

ALPHA = 1 / 32


def make(spec: dict[str, Any]) -> Contender:
    """Return a sparse coder with its optimiser."""
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    coder = SparseCoder(
        spec["d"],
        SparseCoderConfig(num_latents=spec["latents"], k=spec["k"]),
        spec["device"],
        dtype=torch.float32,
    )
    optimiser = torch.optim.Adam(coder.parameters(), lr=rate(spec))
    with torch.no_grad():
        coder.encoder.weight[: n_dead(spec)] *= DEAD_SHRINK
    since = torch.zeros(spec["latents"], dtype=torch.long, device=spec["device"])
    since[: n_dead(spec)] = 10_000_001
    fired = torch.zeros(spec["latents"], dtype=torch.bool, device=spec["device"])
    alpha = ALPHA if spec["dead"] else 0.0
    data = batches(spec)

    def step(number: int) -> None:
        values = data[number % len(data)]
        coder.set_decoder_norm_to_unit_norm()
        dead = since > 10_000_000 if alpha > 0 else None
        variance = (values - values.mean(0)).pow(2).sum()
        out = coder(x=values, y=values, dead_mask=dead, total_variance=variance)
        fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        (out.fvu + alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            since.add_(len(values))
            since[fired] = 0
            fired.zero_()

    return Contender(step, lambda: {"dead": int((since > 10_000_000).sum())})


if __name__ == "__main__":
    serve(make)
