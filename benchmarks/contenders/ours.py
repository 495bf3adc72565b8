"""Contender: anaglyph's training step, threshold average and firing counters included."""

import resource
import time
from typing import Any

import torch
from worker import DEAD_SHRINK, Contender, batches, explained, n_dead, rate, serve

from anaglyph.core.devices import multiplies_bfloat16
from anaglyph.core.threads import set_threads
from anaglyph.dictionaries import Weights, get_method
from anaglyph.dictionaries.engine import Engine
from anaglyph.dictionaries.initial import DECODER_NORM
from anaglyph.dictionaries.kernels import choose_kernels
from anaglyph.dictionaries.sparsity import SPARSITIES


def make(spec: dict[str, Any]) -> Contender:
    """Return an engine with random weights."""
    set_threads(spec["threads"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sources, latents, device = spec["sources"], spec["latents"], spec["device"]
    widths = (spec["d"],) * sources
    weights = Weights.zeros(latents, widths, device)
    generator = torch.Generator().manual_seed(0)
    for encoder, decoder in zip(weights.encoder, weights.decoder, strict=True):
        rows = torch.randn(latents, spec["d"], generator=generator)
        rows *= DECODER_NORM / rows.norm(dim=1, keepdim=True)
        decoder.copy_(rows)
        encoder.copy_(rows)
        encoder[: n_dead(spec)] *= DEAD_SHRINK
    kernels = choose_kernels(spec.get("kernels", "auto"), device)
    name = "tuned-sae" if sources == 1 else "crosscoder"
    engine = Engine(
        get_method(name),
        weights,
        SPARSITIES.get(spec.get("sparsity", "batchtopk"))(spec["k"], kernels, 10_000),
        kernels,
        batch=spec["batch"],
        dead_after=10_000_000,
        screened=spec.get("screened", multiplies_bfloat16(device)),
    )
    engine.silent[: n_dead(spec)] = 10_000_000
    data = [batches(spec, source) for source in range(sources)]
    if "file" in spec:
        weights.decoder_bias[0].copy_(data[0][0].mean(0))
    units: list[float] = []

    def step(number: int) -> None:
        targets = tuple(values[number % len(values)] for values in data)
        engine.step(targets, number, rate(spec))

    def facts() -> dict[str, Any]:
        """Time the unit too: the encoder product of the same shape, in the same process."""
        pre = torch.empty(spec["batch"], latents, device=device)
        units.clear()
        for _ in range(spec["units"]):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            torch.mm(data[0][0], weights.encoder[0].T, out=pre)
            for source in range(1, sources):
                pre.addmm_(data[source][0], weights.encoder[source].T)
            if device == "cuda":
                torch.cuda.synchronize()
            units.append(time.perf_counter() - start)
        dead = int((engine.silent >= 10_000_000).sum())
        best = weights.encoder[0], weights.encoder_bias, weights.decoder[0], weights.decoder_bias[0]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return {
            "unit_seconds": list(units),
            "dead": dead,
            "peak_bytes": 1024 * peak,
            **explained(spec, best, norms=True),
        }

    return Contender(step, facts)


if __name__ == "__main__":
    serve(make)
