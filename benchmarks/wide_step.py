"""One training step of the post's crosscoder: 2 x 2304 -> 73,728 latents, k = 100.

Prints JSON: seconds of a step and of its encoder product alone, their ratio, and peak memory.

    python benchmarks/wide_step.py --batch 2048
"""

import argparse
import json
import resource
import sys
import time

import numpy as np
import torch

from anaglyph.core.devices import multiplies_bfloat16
from anaglyph.dictionaries.config import TrainConfig
from anaglyph.dictionaries.engine import Engine
from anaglyph.dictionaries.initial import Survey, initial_weights
from anaglyph.dictionaries.kernels import choose_kernels
from anaglyph.dictionaries.methods import get_method
from anaglyph.dictionaries.sparsity import make_sparsity


def main() -> None:
    """Run two steps and measure the second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=2304)
    parser.add_argument("--latents", type=int, default=73_728)
    parser.add_argument("--k", type=float, default=100)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kernels", default="auto")
    args = parser.parse_args()
    torch.manual_seed(0)
    spec = get_method("crosscoder")
    means = (np.zeros(args.width), np.zeros(args.width))
    known = Survey(means, (1.0, 1.0), None, True)
    weights = initial_weights(spec, known, args.latents, 0, args.device)
    config = TrainConfig.of(
        method="crosscoder", latents=args.latents, k=args.k, tokens=10**8, lr=1e-4, batch=args.batch
    )
    kernels = choose_kernels(args.kernels, args.device)
    engine = Engine(
        spec,
        weights,
        make_sparsity(config, kernels, config.steps, config.budgets),
        kernels,
        batch=args.batch,
        dead_after=config.dead_after,
        screened=multiplies_bfloat16(args.device),
    )
    targets = tuple(torch.randn(args.batch, args.width).to(args.device) for _ in means)
    engine.step(targets, 0, 1e-4)
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    wait()
    start = time.perf_counter(), time.process_time()
    result = engine.step(targets, 1, 1e-4)
    wait()
    step = time.perf_counter() - start[0], time.process_time() - start[1]
    start = time.perf_counter(), time.process_time()
    engine._encode(targets, engine._pre)
    wait()
    product = time.perf_counter() - start[0], time.process_time() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    facts = {
        "sources": 2,
        "width": args.width,
        "latents": args.latents,
        "k": args.k,
        "batch": args.batch,
        "threads": torch.get_num_threads(),
        "step_seconds": round(step[0], 2),
        "step_processor_seconds": round(step[1], 2),
        "encoder_product_seconds": round(product[0], 2),
        "encoder_product_processor_seconds": round(product[1], 2),
        "step_in_encoder_products": round(step[1] / product[1], 2),
        "peak_bytes": peak,
        "loss": result.loss,
    }
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
