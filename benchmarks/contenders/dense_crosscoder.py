"""Contender: a BatchTopK crosscoder by autograd and dense products, the usual published form.

The model-diffing fork of dictionary_learning, which has such a trainer, is in no package registry,
so its step is restated here: scores weighted by decoder norms, ``topk`` over the whole batch, dense
decoding, the auxiliary loss on dead latents by a second ``topk``, Adam.
"""

from typing import Any

import torch
from torch import Tensor
from worker import DEAD_SHRINK, Contender, batches, n_dead, rate, serve

ALPHA = 1 / 32


def make(spec: dict[str, Any]) -> Contender:
    """Return a crosscoder of ``spec["sources"]`` models with its optimiser."""
    sources, d, latents, k = spec["sources"], spec["d"], spec["latents"], spec["k"]
    generator = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(
        torch.randn(sources, latents, d, generator=generator), dim=2
    ).to(spec["device"])
    encoder = decoder.transpose(1, 2).clone()
    encoder[:, :, : n_dead(spec)] *= DEAD_SHRINK
    parameters = [
        torch.nn.Parameter(tensor)
        for tensor in (
            encoder,
            torch.zeros(latents, device=spec["device"]),
            decoder,
            torch.zeros(sources, d, device=spec["device"]),
        )
    ]
    w_enc, b_enc, w_dec, b_dec = parameters
    optimiser = torch.optim.Adam(parameters, lr=rate(spec))
    since = torch.zeros(latents, dtype=torch.long, device=spec["device"])
    since[: n_dead(spec)] = 10_000_000
    threshold = torch.tensor(-1.0, device=spec["device"])
    per_source = [batches(spec, source) for source in range(sources)]
    data = [torch.stack(parts, 1) for parts in zip(*per_source, strict=True)]

    def decode(codes: Tensor) -> Tensor:
        return torch.einsum("bf,sfd->bsd", codes, w_dec)

    def step(number: int) -> None:
        values = data[number % len(data)]
        acts = torch.relu(torch.einsum("bsd,sdf->bf", values, w_enc) + b_enc)
        scores = acts * w_dec.norm(dim=2).sum(0)
        flat = scores.flatten()
        kept = flat.topk(k * len(values), sorted=False)
        mask = torch.zeros_like(flat).scatter_(0, kept.indices, 1.0).reshape(acts.shape)
        codes = acts * mask
        error = values - decode(codes) - b_dec
        loss = error.pow(2).sum((1, 2)).mean()
        with torch.no_grad():
            smallest = kept.values.min()
            threshold.copy_(smallest if threshold < 0 else 0.999 * threshold + 0.001 * smallest)
            since.add_(len(values))
            since[codes.sum(0) > 0] = 0
            dead = since >= 10_000_000
        if bool(dead.any()):
            some = min(sources * d // 2, int(dead.sum()))
            top = torch.where(dead, acts, -torch.inf).topk(some, sorted=False)
            extra = torch.zeros_like(acts).scatter_(1, top.indices, top.values)
            target = error.detach()
            spread = (target - target.mean(0)).pow(2).sum((1, 2)).mean()
            loss = loss + ALPHA * ((target - decode(extra)).pow(2).sum((1, 2)).mean() / spread)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return Contender(step, lambda: {"dead": int((since >= 10_000_000).sum())})


if __name__ == "__main__":
    serve(make)
