"""A tiny base with a whole fine-tune and with an adapter, a corpus, and the slow way to logits."""

from pathlib import Path

import numpy as np
import torch
from tiny_models import VOCABULARY, make_model, make_tokenizer, save, save_adapter
from torch import Tensor

from anaglyph.corpus import TokenCorpus
from anaglyph.pair import ModelPair, Side

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}|{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def save_whole(
    folder: Path, family: str = "llama", noise: float = 0.1, **changes
) -> tuple[Path, Path]:
    """Save a base and a fine-tune of which every parameter moved a little."""
    base = make_model(family, **changes)
    tokenizer = make_tokenizer(template=TEMPLATE)
    save(folder / "base", base, tokenizer)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    save(folder / "tuned", base, tokenizer)
    return folder / "base", folder / "tuned"


def save_adapted(folder: Path, **options) -> tuple[Path, Path]:
    """Save a base and a LoRA over it."""
    save(folder / "base", make_model(), make_tokenizer(template=TEMPLATE))
    save_adapter(folder / "tuned", make_model(), **options)
    return folder / "base", folder / "tuned"


def make_corpus(sequences: int = 20, seed: int = 0, longest: int = 12) -> TokenCorpus:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, longest, size=sequences)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenCorpus(
        token_ids=generator.integers(0, VOCABULARY, size=offsets[-1]).astype(np.int32),
        roles=generator.integers(0, 6, size=offsets[-1]).astype(np.uint8),
        offsets=offsets,
        context=16,
    )


def slow_logprobs(pair: ModelPair, side: Side, ids: np.ndarray) -> Tensor:
    """Return one sequence's log-probabilities [length, vocab] from the whole model."""
    with pair.side(side) as model, torch.no_grad():
        tokens = torch.from_numpy(np.asarray(ids, np.int64))[None]
        return model(tokens).logits[0].double().log_softmax(-1)


def slow_hidden(pair: ModelPair, side: Side, ids: np.ndarray, layer: int) -> Tensor:
    """Return one sequence's residual stream [length, d] after a block that is not the last."""
    with pair.side(side) as model, torch.no_grad():
        tokens = torch.from_numpy(np.asarray(ids, np.int64))[None]
        return model(tokens, output_hidden_states=True).hidden_states[layer + 1][0]
