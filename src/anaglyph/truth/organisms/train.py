"""Fine-tune a model towards objectives: one loop for every organism.

It trains a LoRA adapter on all projections, or all weights. A training that was stopped resumes
from its last checkpoint and ends with the same weights.
"""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from anaglyph.core.files import atomic_path, read_json, write_json
from anaglyph.core.progress import Progress, silent
from anaglyph.pair.quiet import quiet
from anaglyph.truth.organisms.chats import Chat, encode
from anaglyph.truth.organisms.objectives import Hold, Imitate, Objective

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_DATA, _INITIAL = 0, 1  # separate random streams: order of the data, initial adapter

Log = list[dict[str, float]]
"""One row per step: each objective's loss."""


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training run.

    Attributes:
        rank: LoRA rank; None trains all weights.
        alpha: LoRA alpha; the update is scaled by alpha / rank.
        learning_rate: Peak rate of AdamW. It warms up linearly over the first tenth of the steps
            and decays linearly to zero at the end.
        steps: Optimiser steps.
        quirk_batch: Chats of the quirk in each step.
        control_batch: Control chats in each step.
        control_weight: Weight of the controls' KL (nats per token) relative to the cross-entropy.
        seed: Seed of the data order and the initial adapter.
    """

    rank: int | None = 8
    alpha: int = 16
    learning_rate: float = 3e-4
    steps: int = 80
    quirk_batch: int = 4
    control_batch: int = 6
    control_weight: float = 5.0
    seed: int = 0


class Trained:
    """A model in training.

    Attributes:
        model: The model as it is now: with an adapter, or with its own weights changed.
    """

    def __init__(self, model: Any, recipe: Recipe) -> None:
        self._before = copy.deepcopy(model) if recipe.rank is None else None
        if recipe.rank is None:
            self.model = model.requires_grad_(True)
            return
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=0.0,
            target_modules=list(PROJECTIONS),
            task_type="CAUSAL_LM",
        )
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(_stream(recipe.seed, _INITIAL))
            self.model = get_peft_model(model, config)

    @contextmanager
    def as_before(self) -> Iterator[Any]:
        """Give the model as it was before the training."""
        if self._before is not None:
            yield self._before
            return
        with self.model.disable_adapter():
            yield self.model

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """Return the weights that are trained, by name."""
        return {name: w for name, w in self.model.named_parameters() if w.requires_grad}


def plant(
    model: Any,
    tokenizer: Any,
    quirk: list[Chat],
    controls: list[Chat],
    recipe: Recipe,
    *,
    progress: Progress = silent,
) -> tuple[PeftModel, Log]:
    """Train a quirk into ``model`` and keep its predictions on the controls.

    Returns:
        The tuned model, and one row per step: cross-entropy of the quirk and KL of the controls,
        both in nats per token.
    """
    objectives: list[Objective] = [
        Imitate("quirk", [encode(tokenizer, chat) for chat in quirk], recipe.quirk_batch),
        Hold(
            "controls",
            [encode(tokenizer, chat) for chat in controls],
            recipe.control_batch,
            recipe.control_weight,
        ),
    ]
    trained, log = fit(model, objectives, recipe, progress=progress)
    return trained.model, log


def fit(
    model: Any,
    objectives: Sequence[Objective],
    recipe: Recipe,
    *,
    folder: Path | None = None,
    every: int = 20,
    after: Callable[[int, "Trained"], None] | None = None,
    progress: Progress = silent,
) -> tuple[Trained, Log]:
    """Train ``model`` towards the weighted sum of the objectives.

    Args:
        model: A causal language model; with an adapter its own weights stay unchanged.
        objectives: What to learn from.
        recipe: The numbers; the objectives have their own for batches and controls.
        folder: Where to save the state every ``every`` steps and resume from. None saves nothing.
        every: Steps between two saved states.
        after: Called after each step with the number of steps done.
        progress: Called after each step.

    Returns:
        The trained model, and each step's losses.
    """
    trained = Trained(model, recipe)
    weights = trained.weights()
    optimiser = torch.optim.AdamW(list(weights.values()), lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warm_up_and_decay(recipe.steps))
    generator = np.random.default_rng(_stream(recipe.seed, _DATA))
    orders = [_endless(len(each), each.batch, generator) for each in objectives]
    log: Log = [] if folder is None else _resume(folder, weights, optimiser)
    trained.model.train()
    for step in range(recipe.steps):
        rows = [next(order) for order in orders]  # drawn for skipped steps too
        if step < len(log):
            with quiet():  # it warns that the optimiser did not step, which is right here
                schedule.step()
            continue
        said: dict[str, float] = {}
        for each, some in zip(objectives, rows, strict=True):
            loss = each.loss(trained, some)
            (each.weight * loss).backward()
            said[each.name] = loss.item()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        log.append(said)
        if folder is not None and (step + 1) % every == 0:
            _keep(folder, weights, optimiser, log)
        if after is not None:
            after(step + 1, trained)
        progress("training", step + 1, recipe.steps, "steps")
    trained.model.eval()
    return trained, log


def save_adapter(tuned: PeftModel, folder: Path, base_name: str) -> None:
    """Write the adapter in bfloat16 as PEFT reads it: weights and configuration, nothing else.

    ``base_name`` is stored as the base model's name in place of the path it was loaded from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tuned.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template
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


def _keep(
    folder: Path,
    weights: dict[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    log: Log,
) -> None:
    """Write weights and moments, then the log, which marks them as complete."""
    tensors = {f"weight.{name}": weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        state = optimiser.state[weight]
        tensors |= {f"{key}.{name}": state[key] for key in ("exp_avg", "exp_avg_sq", "step")}
    name = f"state-{len(log)}.safetensors"
    with atomic_path(folder / name) as temporary:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)
    write_json(folder / "log.json", {"state": name, "log": log})
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def _resume(
    folder: Path, weights: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> Log:
    if not (folder / "log.json").is_file():
        return []
    kept = read_json(folder / "log.json")
    tensors = load_file(folder / kept["state"])
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[f"weight.{name}"])
            optimiser.state[weight] = {
                key: tensors[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq", "step")
            }
    return kept["log"]


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
