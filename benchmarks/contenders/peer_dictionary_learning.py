"""Contender: the BatchTopK trainer of dictionary_learning, as its training loop calls it.

Its package imports nnsight to read models; the trainer needs none of it, so a stand-in will do.
"""

import sys
import types
from typing import Any

import torch
from worker import DEAD_SHRINK, Contender, batches, explained, n_dead, rate, serve

sys.modules["nnsight"] = types.SimpleNamespace(LanguageModel=object)  # type: ignore[assignment]

from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer  # noqa: E402


def make(spec: dict[str, Any]) -> Contender:
    """Return a trainer whose threshold is averaged from the first step on."""
    trainer = BatchTopKTrainer(
        steps=10_000_000,
        activation_dim=spec["d"],
        dict_size=spec["latents"],
        k=spec["k"],
        layer=0,
        lm_name="none",
        lr=rate(spec),
        warmup_steps=0,
        threshold_start_step=0,
        seed=0,
        device=spec["device"],
    )
    with torch.no_grad():
        trainer.ae.encoder.weight[: n_dead(spec)] *= DEAD_SHRINK
    trainer.num_tokens_since_fired[: n_dead(spec)] = trainer.dead_feature_threshold
    data = batches(spec)
    # Step 0 sets the decoder bias to the geometric median, which is no part of a step.
    first = 0 if "file" in spec else 1

    def facts() -> dict[str, Any]:
        ae = trainer.ae
        weights = ae.encoder.weight, ae.encoder.bias, ae.decoder.weight.T, ae.b_dec
        return {"dead": trainer.dead_features, **explained(spec, weights, norms=False)}

    return Contender(lambda number: trainer.update(number + first, data[number % len(data)]), facts)


if __name__ == "__main__":
    serve(make)
