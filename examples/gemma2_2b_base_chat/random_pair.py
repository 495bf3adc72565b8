"""Write two random-weight Gemma-2 models that differ a little: FOLDER/base and FOLDER/tuned.

python examples/gemma2_2b_base_chat/random_pair.py FOLDER              # as Gemma-2-2B: 10 GB
python examples/gemma2_2b_base_chat/random_pair.py FOLDER --width 64   # the same depth, narrow
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from anaglyph.demo import tiny_pair

MOVED = 0.1
"""Noise in the tuned model's weights, in standard deviations of each."""


def write_pair(folder: Path, width: int = 2304, context: int = 8192) -> None:
    """Write both models, with the tiny pair's tokenizer.

    Args:
        folder: Gets the subfolders base and tuned.
        width: Of the residual stream, a multiple of 16; 2304 is Gemma-2-2B's.
        context: Longest text.
    """
    config = Gemma2Config(
        vocab_size=2048 if width < 2304 else 256_000,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=26,
        num_attention_heads=8 if width == 2304 else 4,
        num_key_value_heads=4 if width == 2304 else 2,
        head_dim=256 if width == 2304 else 16,
        query_pre_attn_scalar=256 if width == 2304 else 16,
        max_position_embeddings=context,
        dtype="bfloat16" if width == 2304 else "float32",
    )
    for name, moved in (("base", 0.0), ("tuned", MOVED)):
        shutil.copytree(tiny_pair().base, folder / name)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.add_(moved * parameter.std() * torch.randn_like(parameter))
        model.save_pretrained(folder / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=2304)
    args = parser.parse_args()
    write_pair(args.folder, args.width)
