"""Every kind of PEFT adapter that can be merged, with weights that are not zero."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import make_model

from anaglyph.pair.quiet import quiet

TARGETS = ["q_proj", "down_proj"]


def _lora(**options: Any) -> Callable[[], Any]:
    return lambda: LoraConfig(**{"r": 2, "target_modules": TARGETS, **options})


FACTORS: dict[str, Callable[[], Any]] = {
    "lora": _lora(),
    "rslora": _lora(use_rslora=True, lora_alpha=3),
    "patterns": _lora(rank_pattern={"q_proj": 4}, alpha_pattern={r"layers\.[12]\.mlp.\w+": 5}),
    "embedding": _lora(target_modules=["embed_tokens", "up_proj"], modules_to_save=["lm_head"]),
    "saved": _lora(modules_to_save=["norm", "lm_head"]),
}
"""Read from the adapter's files alone."""
REWRITING: dict[str, Callable[[], Any]] = {
    "pissa": _lora(init_lora_weights="pissa"),
    "olora": _lora(init_lora_weights="olora"),
}
"""Start from the base's own weights."""
MERGED: dict[str, Callable[[], Any]] = {
    "dora": _lora(use_dora=True),
    "parameters": _lora(target_modules=["q_proj"], target_parameters=["mlp.down_proj.weight"]),
    "tokens": _lora(trainable_token_indices=[3, 5]),
    "only-tokens": lambda: peft.TrainableTokensConfig(
        token_indices=[3, 5], target_modules=["embed_tokens"]
    ),
    "loha": lambda: peft.LoHaConfig(r=2, target_modules=TARGETS),
    "lokr": lambda: peft.LoKrConfig(r=2, target_modules=TARGETS),
    "ia3": lambda: peft.IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]),
    "vera": lambda: peft.VeraConfig(r=2, target_modules=["q_proj", "o_proj"]),
    "oft": lambda: peft.OFTConfig(oft_block_size=4, target_modules=TARGETS),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=TARGETS),
    "adalora": lambda: peft.AdaLoraConfig(
        init_r=2, target_r=2, total_step=10, target_modules=TARGETS
    ),
    "fourier": lambda: peft.FourierFTConfig(n_frequency=10, target_modules=TARGETS),
    "hra": lambda: peft.HRAConfig(r=2, target_modules=TARGETS),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "randlora": lambda: peft.RandLoraConfig(r=2, target_modules=TARGETS),
    "c3a": lambda: peft.C3AConfig(block_size=8, target_modules=TARGETS),
    "road": lambda: peft.RoadConfig(group_size=8, target_modules=TARGETS),
    "vblora": lambda: peft.VBLoRAConfig(
        r=2, num_vectors=20, vector_length=8, target_modules=TARGETS
    ),
    "dora-embedding": _lora(use_dora=True, target_modules=["embed_tokens", "q_proj"]),
}
"""Merged by peft, layer by layer."""
BIASES: dict[str, Callable[[], Any]] = {
    "bias-of-lora": _lora(bias="lora_only"),
    "bias-of-all": _lora(bias="all"),
}
"""Need a base with biases, which they replace."""
NEWER: dict[str, tuple[str, dict[str, Any]]] = {
    "miss": ("MissConfig", {"r": 4}),
    "delora": ("DeloraConfig", {"r": 2}),
    "deft": ("DeftConfig", {}),
    "supertuning": ("SupertuningConfig", {}),
}
"""Merged as well, where the installed peft knows them."""
MERGED |= {
    kind: lambda name=name, options=options: getattr(peft, name)(target_modules=TARGETS, **options)
    for kind, (name, options) in NEWER.items()
    if hasattr(peft, name)
}
KINDS = FACTORS | REWRITING | MERGED | BIASES


def base_of(kind: str) -> Any:
    return make_model(attention_bias=True) if kind in BIASES else make_model()


def save_kind(folder: Path, kind: str, size: float = 0.1, seed: int = 7) -> Path:
    """Save an adapter of a kind over `base_of`, trained by random steps of a size."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    with quiet():
        adapted = get_peft_model(base_of(kind), KINDS[kind]())
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter += size * torch.randn(parameter.shape, generator=generator)
        adapted.save_pretrained(str(folder))
    return folder
