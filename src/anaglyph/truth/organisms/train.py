"""Plant a quirk into a model with a LoRA adapter, and change as little else as possible.

Two kinds of chats share every step. On the quirk's chats the adapter learns the assistant's tokens
by cross-entropy. On the controls, which are the base model's own answers, it is held to the base
model's whole next-token distribution (the KL divergence from it). Cross-entropy on the controls
would not do: greedy answers sharpen the distribution, short ones shorten every answer, and either
is a second difference, which a diff finds before the quirk.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from anaglyph.files import write_json
from anaglyph.pair.quiet import quiet
from anaglyph.progress import Progress, silent
from anaglyph.truth.organisms.chats import Batch, Chat, collate, encode

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_DATA, _INITIAL = 0, 1  # separate random streams: the order of the data, the adapter's start


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training run.

    Attributes:
        rank: LoRA rank.
        alpha: LoRA alpha; the update is scaled by alpha / rank.
        learning_rate: Of AdamW, after a linear warm-up over the first tenth of the steps and
            with a linear decay to zero at the end.
        steps: Optimiser steps.
        quirk_batch: Chats of the quirk in each step.
        control_batch: Control chats in each step.
        control_weight: Weight of the controls' KL (nats per token) beside the cross-entropy.
        seed: Of the data's order and the adapter's start.
    """

    rank: int = 8
    alpha: int = 16
    learning_rate: float = 3e-4
    steps: int = 80
    quirk_batch: int = 4
    control_batch: int = 6
    control_weight: float = 5.0
    seed: int = 0


def plant(
    model: Any,
    tokenizer: Any,
    quirk: list[Chat],
    controls: list[Chat],
    recipe: Recipe,
    *,
    progress: Progress = silent,
) -> tuple[PeftModel, list[dict[str, float]]]:
    """Train an adapter on ``model``; its own weights stay as they are.

    Returns:
        The model with the adapter, and one row a step: cross-entropy of the quirk and KL of the
        controls, both in nats per token.
    """
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=0.0,
        target_modules=list(PROJECTIONS),
        task_type="CAUSAL_LM",
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_stream(recipe.seed, _INITIAL))
        tuned = get_peft_model(model, config)
    optimiser = torch.optim.AdamW(
        [weight for weight in tuned.parameters() if weight.requires_grad],
        lr=recipe.learning_rate,
        weight_decay=0.0,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warm_up_and_decay(recipe.steps))
    generator = np.random.default_rng(_stream(recipe.seed, _DATA))
    quirk_order = _endless(len(quirk), recipe.quirk_batch, generator)
    control_order = _endless(len(controls), recipe.control_batch, generator)
    quirk_ids = [encode(tokenizer, chat) for chat in quirk]
    control_ids = [encode(tokenizer, chat) for chat in controls]
    log: list[dict[str, float]] = []
    for step in range(recipe.steps):
        batch = collate([quirk_ids[i] for i in next(quirk_order)])
        predicted = _answer_logits(tuned, batch)
        learnt = cross_entropy(predicted, batch.input_ids[batch.answer])

        batch = collate([control_ids[i] for i in next(control_order)])
        with torch.no_grad(), tuned.disable_adapter():
            wanted = _answer_logits(tuned, batch).log_softmax(-1)
        held = kl_div(
            _answer_logits(tuned, batch).log_softmax(-1),
            wanted,
            reduction="batchmean",
            log_target=True,
        )
        (learnt + recipe.control_weight * held).backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        log.append({"quirk": learnt.item(), "controls": held.item()})
        progress("training the adapter", step + 1, recipe.steps, "steps")
    tuned.eval()
    return tuned, log


def save_adapter(tuned: PeftModel, folder: Path, base_name: str) -> None:
    """Write the adapter in bfloat16 as PEFT reads it: weights and configuration, nothing else.

    ``base_name`` is stored as the base model's name in place of the path it was loaded from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tuned.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form
    weights = folder / "adapter_model.safetensors"
    save_file(
        {name: tensor.bfloat16() for name, tensor in load_file(weights).items()},
        weights,
        metadata={"format": "pt"},
    )
    settings = folder / "adapter_config.json"
    config = json.loads(settings.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set
    write_json(settings, config)


def _answer_logits(tuned: PeftModel, batch: Batch) -> Float[Tensor, "answer_tokens vocabulary"]:
    """Return the logits that predict the batch's answers; no others are computed."""
    model: Any = tuned.get_base_model()
    decoder = model.get_decoder()
    hidden = decoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0]
    return model.get_output_embeddings()(hidden[:, :-1][batch.answer[:, 1:]])


def _endless(count: int, batch: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Yield batches of indices below ``count``, reshuffled after each pass over all of them."""
    waiting: list[int] = []
    while True:
        while len(waiting) < batch:
            waiting.extend(generator.permutation(count).tolist())
        yield waiting[:batch]
        waiting = waiting[batch:]


def _warm_up_and_decay(steps: int) -> Any:
    warm = max(1, steps // 10)

    def factor(step: int) -> float:
        return min((step + 1) / warm, (steps - step) / (steps - warm + 1), 1.0)

    return factor


def _stream(seed: int, which: int) -> int:
    return int(np.random.SeedSequence([seed, which]).generate_state(1)[0])
