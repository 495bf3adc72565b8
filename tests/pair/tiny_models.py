"""Models small enough to build in a test: every family, random weights, one tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from anaglyph.pair.quiet import quiet

VOCABULARY = 96
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
GROUPED: dict[str, Any] = {**COMMON, "num_key_value_heads": 1, "head_dim": 8}
# A window shorter than the test sequences and mixed layer types: skipping blocks must not shift
# which kind of attention a later block uses.
WINDOWED: dict[str, Any] = {
    **GROUPED,
    "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "gemma2": lambda: transformers.Gemma2Config(
        **WINDOWED, query_pre_attn_scalar=8, attn_logit_softcapping=0.05
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(**WINDOWED, query_pre_attn_scalar=8),
    "qwen2": lambda: transformers.Qwen2Config(**COMMON, num_key_value_heads=1),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=4, n_head=2, n_positions=64
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**COMMON),
}


def make_model(family: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """Build a random model; weights are large enough for every block to matter."""
    config = FAMILIES[family]()
    config.pad_token_id = None
    for field, value in changes.items():
        setattr(config, field, value)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model


def make_tokenizer(extra: int = 0, swap: bool = False, template: str | None = None) -> Any:
    """Build a byte-level tokenizer: space, a lone byte, the printable characters but ~, and th."""
    pieces = (
        ["Ġ", "Ã"]
        + [chr(code) for code in range(33, 126)]
        + ["th"]
        + [f"<{i}>" for i in range(extra)]
    )
    if swap:
        pieces[5], pieces[6] = pieces[6], pieces[5]
    tokenizer = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, merges=[("t", "h")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    if template:
        fast.chat_template = template
    return fast


def save(folder: Path, model: Any, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, model: Any, seed: int = 7, **options: Any) -> Path:
    """Save a LoRA whose effect is not zero over ``model``, which it changes in place."""
    options = {"r": 2, "target_modules": ["q_proj", "down_proj"], **options}
    with quiet():
        adapted = get_peft_model(model, LoraConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    with quiet():
        adapted.save_pretrained(str(folder))
    return folder
