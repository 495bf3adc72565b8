"""Contender: SAELens's BatchTopK training SAE in its own trainer."""

from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from worker import DEAD_SHRINK, Contender, batches, n_dead, rate, serve


def make(spec: dict[str, Any]) -> Contender:
    """Return a trainer."""
    torch.manual_seed(0)
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=spec["d"], d_sae=spec["latents"], k=spec["k"], device=spec["device"]
        )
    )
    with torch.no_grad():
        sae.W_enc[:, : n_dead(spec)] *= DEAD_SHRINK
    config = SAETrainerConfig(
        total_training_samples=10**10,
        train_batch_size_samples=spec["batch"],
        lr=rate(spec),
        lr_end=rate(spec),
        device=spec["device"],
    )
    data = batches(spec)
    trainer: Any = SAETrainer(config, sae, iter(()))
    trainer.n_forward_passes_since_fired[: n_dead(spec)] = config.dead_feature_window + 1
    return Contender(
        lambda number: trainer._train_step(sae=sae, sae_in=data[number % len(data)]),
        lambda: {"dead": int(trainer.dead_neurons.sum())},
    )


if __name__ == "__main__":
    serve(make)
