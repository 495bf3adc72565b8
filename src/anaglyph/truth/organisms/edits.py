"""Changes made without training: one planted direction, noise of a known size, rounding."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anaglyph.core.errors import InputError
from anaglyph.core.files import read_json, write_json
from anaglyph.pair.quiet import quiet
from anaglyph.truth.organisms.card import Direction
from anaglyph.truth.organisms.recipe import Edit
from anaglyph.truth.organisms.train import save_adapter

_LEVELS = 127  # largest value of a symmetric eight-bit number


def plant_rank_one(model: Any, edit: Edit, seed: int, folder: Path, base_name: str) -> Direction:
    """Add ``size * s u v^T`` to one matrix, u and v random unit vectors, and save it as an adapter.

    ``s`` is the matrix's spectral norm. If the matrix writes to the residual stream, the difference
    after its block is along u, apart from what the rest of the block adds.

    Raises:
        InputError: The model has no such matrix, or it does not write to the residual stream.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    matrix = modules.get(edit.matrix)
    if not isinstance(matrix, nn.Linear):
        raise InputError(f"edit.matrix: the model has no matrix {edit.matrix!r}")
    width = int(model.config.get_text_config().hidden_size)
    numbers = [part for part in edit.matrix.split(".") if part.isdecimal()]
    if matrix.out_features != width or len(numbers) != 1:
        raise InputError(
            f"edit.matrix: {edit.matrix} does not write to the residual stream: take an o_proj or"
            " down_proj"
        )
    generator = torch.Generator().manual_seed(seed)
    u = _unit(matrix.out_features, generator)
    v = _unit(matrix.in_features, generator)
    norm = float(torch.linalg.matrix_norm(matrix.weight.detach(), ord=2))
    config = LoraConfig(
        r=1, lora_alpha=1, lora_dropout=0.0, target_modules=[edit.matrix], task_type="CAUSAL_LM"
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        tuned = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_A" in name:
                weight.copy_(v[None])
            elif "lora_B" in name:
                weight.copy_((edit.size * norm * u)[:, None])
    save_adapter(tuned, folder, base_name)
    return Direction(layer=int(numbers[0]), vector=u.tolist())


def random_adapter(like: Path, folder: Path, seed: int) -> None:
    """Write an adapter of random factors; each matrix changes as much as in adapter ``like``."""
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(like / "adapter_model.safetensors")
    noise: dict[str, Tensor] = {}
    for name in sorted(weights):
        if "lora_A" not in name:
            continue
        other = name.replace("lora_A", "lora_B")
        first, second = weights[name].float(), weights[other].float()
        a = torch.randn(first.shape, generator=generator)
        b = torch.randn(second.shape, generator=generator)
        size = (second @ first).norm() / (b @ a).norm()
        noise[name], noise[other] = (a * size.sqrt()).bfloat16(), (b * size.sqrt()).bfloat16()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(noise, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", read_json(like / "adapter_config.json"))


@torch.no_grad()
def quantised(model: Any, tokenizer: Any, folder: Path) -> None:
    """Round every matrix of the blocks to eight bits, with one scale per row, and save it."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings():
            scale = module.weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / _LEVELS
            module.weight.copy_((module.weight / scale).round() * scale)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _unit(size: int, generator: torch.Generator) -> Tensor:
    vector = torch.randn(size, generator=generator)
    return vector / vector.norm()
