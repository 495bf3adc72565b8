"""Which causal architectures of transformers work, tried on tiny random pairs: docs/models.md.

Each architecture is built small with random weights, saved, and loaded as a pair with a copy whose
weights moved a little. Tried are: the logits against those of transformers, `run_to` and `run_from`
at every layer, the norms that `weights` gives, and the activations that a diff stores.

    python benchmarks/models.py [NAME ...]     # without names: all of them, and docs/models.md
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from anaglyph import collect, load_corpus
from anaglyph.corpus import Document
from anaglyph.direct.weights import weight_changes
from anaglyph.pair import ModelPair
from anaglyph.pair.quiet import first_line, quiet

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
WORKS, NOT_BUILT = "works", "not tried: no small model of it could be built"
LARGEST = 20_000_000
"""Parameters of a model that is still tiny."""
_DEPTH = 3
# Fields of a configuration that say how large a model is, with a tiny value.
_SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "n_embd": 32, "d_model": 32, "n_layer": _DEPTH,
    "n_layers": _DEPTH, "num_layers": _DEPTH, "num_hidden_layers": _DEPTH,
    "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "d_ff": 48, "head_dim": 16, "d_kv": 16,
    "max_position_embeddings": 128, "n_positions": 128, "max_seq_len": 128, "rotary_dim": 8,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_topk": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "qk_head_dim": 16, "first_k_dense_replace": 1, "state_size": 4, "mamba_d_state": 4,
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_num_heads": 4, "mamba_head_dim": 16,
    "attention_hidden_size": 32, "word_embed_proj_dim": 32, "embedding_size": 32,
    "decoder_layers": _DEPTH, "decoder_ffn_dim": 48, "decoder_attention_heads": 2,
    "encoder_layers": _DEPTH, "encoder_ffn_dim": 48, "encoder_attention_heads": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": 16,
    "lru_width": 32, "num_kv_heads": 1, "n_groups": 1, "ssm_state_size": 4, "time_step_rank": 4,
    "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "mamba_d_ssm": 32, "conv_dim": 32, "laurel_rank": 4,
    "moe_k": 2, "num_experts_per_token": 2, "num_blocks": _DEPTH, "num_decoder_layers": _DEPTH,
    "num_encoder_layers": _DEPTH,
    "num_decoder_attention_heads": 2,
    "num_encoder_attention_heads": 2,
}  # fmt: skip


def names() -> list[str]:
    """Return the model types of all causal architectures, by name."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny(name: str, *, anew: bool = False) -> Any:
    """Build a tiny random model of an architecture.

    Args:
        name: The model type.
        anew: Give the small sizes to the configuration's constructor, which derives others from
            them; else the default configuration is changed.

    Raises:
        Exception: Whatever the architecture makes of an unusual size.
    """
    config: Any = AutoConfig.for_model(name)
    config = _anew(config) if anew else _changed(config)
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"its sizes have other names: {size:,} parameters")
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1)
    return model


def _changed(config: Any) -> Any:
    """Change the sizes in a configuration, and in those inside it."""
    for part in _parts(config):
        own = vars(part)
        for field, value in _SMALL.items():
            now = own.get(field)
            if isinstance(now, int) and not isinstance(now, bool):
                own[field] = value
        if "head_dim" in own and own["head_dim"] is None:
            own["head_dim"] = _SMALL["head_dim"]
        if "kv_lora_rank" in own:  # latent attention has as many keys as queries
            own["num_key_value_heads"] = own["num_attention_heads"]
        # Rotary embeddings of a part of the head are as wide as that part.
        if "qk_rope_head_dim" in own and "head_dim" in own:
            own["head_dim"] = own["qk_rope_head_dim"]
        for field in ("layer_types", "layers_block_type", "mlp_layer_types", "block_types"):
            kinds = own.get(field)
            if isinstance(kinds, list | tuple):
                seen = list(dict.fromkeys(kinds))
                own[field] = (seen * _DEPTH)[:_DEPTH]
        if own.get("pad_token_id") is None:
            own["pad_token_id"] = 0
        for field in ("num_experts_per_tok", "num_key_value_heads"):
            if field in own and own[field] is None:
                own[field] = 2
    return config


def _anew(config: Any) -> Any:
    """Construct a configuration again with small sizes, and those inside it."""
    given = {}
    for field, now in vars(config).items():
        if isinstance(now, PretrainedConfig):
            given[field] = _anew(now)
        elif isinstance(now, int | list) and not isinstance(now, bool) and field in _SMALL:
            given[field] = _SMALL[field]
    return type(config)(**given)


def _parts(config: Any) -> Iterator[Any]:
    """Yield a configuration and those inside it: text, images, sound."""
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PretrainedConfig):
            yield from _parts(value)


def tokenizer() -> Any:
    """Return a byte-level tokenizer of 96 tokens."""
    pieces = ["Ġ", *map(chr, range(33, 127)), "th"]
    made = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [("t", "h")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def attempt(name: str, folder: Path) -> str:
    """Try one architecture; return `WORKS`, or the first thing that failed and why."""
    found = [_attempt(name, folder / "0", anew=False)]
    if found[0] != WORKS:
        found.append(_attempt(name, folder / "1", anew=True))
    later = [result for result in found if not result.startswith(NOT_BUILT)]
    return WORKS if WORKS in found else (later or found)[-1]


def _attempt(name: str, folder: Path, anew: bool) -> str:
    steps: list[tuple[str, Callable[[], None]]] = []
    held: dict[str, Any] = {}
    ids = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)

    def build() -> None:
        model = tiny(name, anew=anew)
        with torch.no_grad():
            model(ids, use_cache=False)  # what does not run in transformers is not tried
        for side in ("base", "tuned"):
            model.save_pretrained(folder / side)
            tokenizer().save_pretrained(folder / side)
            if side == "base":
                with torch.no_grad():
                    for parameter in model.parameters():
                        if parameter.is_floating_point():
                            parameter += 0.01 * torch.randn_like(parameter)

    def load() -> None:
        held["pair"] = ModelPair.load(folder / "base", folder / "tuned", device="cpu")

    def runs() -> None:
        pair = held["pair"]
        for side in ("base", "tuned"):
            whole = pair.logits(side, ids, mask)
            for layer in range(pair.n_layers):
                hidden = pair.run_to(side, ids, mask, [layer])[layer]
                resumed = pair.run_from(side, layer, hidden, ids, mask)
                scale = float(whole.abs().max())
                if not torch.allclose(resumed, whole, rtol=1e-3, atol=1e-4 * scale):
                    raise ValueError(f"resumed from layer {layer}, the logits differ")

    def weights() -> None:
        changes = list(weight_changes(folder / "base", folder / "tuned"))
        if not any(change.norm > 0 for change in changes):
            raise ValueError("no change of the weights was seen")

    def store() -> None:
        text = [Document(text="the cat and the hat " * 3, source=f"{i}") for i in range(4)]
        corpus = load_corpus(text, held["pair"].tokenizer, context=32)
        found = collect(held["pair"], corpus, [0.5], folder / "store")
        if found.statistics.difference is None or found.statistics.difference.rms == 0:
            raise ValueError("the activations do not differ")

    steps = [(NOT_BUILT, build), ("loaded", load), ("run", runs), ("weights", weights),
             ("collect", store)]  # fmt: skip
    for word, step in steps:
        try:
            with quiet():
                step()
        except Exception as error:
            said = " ".join(first_line(error).replace(str(folder), "").replace("|", "/").split())
            return f"{word}: {said[:120]}"
    return WORKS


def write_page(found: dict[str, str]) -> None:
    """Write docs/models.md."""
    built = {n: r for n, r in found.items() if not r.startswith(NOT_BUILT)}
    good = sum(result == WORKS for result in found.values())
    lines = [
        "# Architectures",
        "",
        "Which causal language models of transformers anaglyph works with. Each architecture was",
        "built small with random weights, saved, loaded as a pair, run to and from every layer,",
        "and compared by `weights` and `collect`. Find yours by the key `model_type` in the",
        "model's `config.json`. To try one of them again:",
        "",
        "```",
        "python benchmarks/models.py llama",
        "```",
        "",
        f"{good} of {len(found)} architectures work. {len(found) - len(built)} were not tried: no",
        "small model could be built that runs in transformers itself, which says nothing about the",
        "real ones. For all others the line says what failed first. This page is made by",
        "`benchmarks/models.py`.",
        "",
        "Models are refused whose blocks hand on more than one vector a token, or whose later",
        "blocks reuse keys and values of earlier ones (the smaller Gemma 3n and Gemma 4): their",
        "activations at one layer do not determine the rest. `weights` reads them.",
        "",
        "| architecture | result |",
        "|---|---|",
        *(f"| `{name}` | {result} |" for name, result in sorted(found.items())),
        "",
    ]
    PAGE.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    """Try the architectures that are named, or all of them and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="model types; all if left out")
    wanted = parser.parse_args().names
    found = {}
    for name in wanted or names():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = attempt(name, Path(folder))
        sys.stdout.write(f"{name}: {found[name]}\n")
        sys.stdout.flush()
    if not wanted:
        write_page(found)


if __name__ == "__main__":
    main()
