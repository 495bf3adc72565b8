"""Null pairs and mixtures of models whose parameters have other names, or are tied in one only."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import make_model, make_tokenizer, save

from anaglyph.behaviour.mixture import Mixer, Shares
from anaglyph.behaviour.null_pair import change_norms, null_pair
from anaglyph.core.errors import ModelError
from anaglyph.pair import ModelPair

IDS = torch.arange(9)[None]
MASK = torch.ones_like(IDS)
DOWN = "layers.2.mlp.down_proj.weight"


def bumped(model: Any, name: str) -> Any:
    with torch.no_grad():
        weight = model.get_parameter(name)
        weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    return model


def wrapped(text: Any) -> Any:
    """The same text model inside one that sees pictures as well."""
    torch.manual_seed(0)
    eyes = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text.config.to_dict(), vision_config=eyes, mm_tokens_per_image=4,
        image_token_index=90, boi_token_index=91, eoi_token_index=92,
    )  # fmt: skip
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    inner: Any = model.model.language_model
    inner.load_state_dict(text.model.state_dict())
    model.tie_weights()
    return model


@pytest.mark.parametrize("wrapper", ["base", "tuned"])
def test_a_text_model_and_the_same_inside_a_wrapper(tmp_path: Path, wrapper: str):
    plain, text = make_model("gemma3"), bumped(make_model("gemma3"), f"model.{DOWN}")
    models = {"base": plain, "tuned": text}
    models[wrapper] = wrapped(models[wrapper])
    folders = [save(tmp_path / side, model, make_tokenizer()) for side, model in models.items()]
    pair = ModelPair.load(*folders)
    moved = (text.get_parameter(f"model.{DOWN}") - plain.get_parameter(f"model.{DOWN}")).detach()
    norms = change_norms(pair)
    assert [name.endswith(DOWN) for name in norms] == [True]
    assert list(norms.values()) == [pytest.approx(float(moved.norm()))]
    null = null_pair(pair, norms)
    assert not torch.equal(null.logits("tuned", IDS, MASK), pair.logits("base", IDS, MASK))
    half = make_model("gemma3")
    with torch.no_grad():
        half.get_parameter(f"model.{DOWN}").add_(moved / 2)
        expected = half(IDS).logits
    with Mixer(pair).model(Shares.everywhere(4, 0.5)) as model, torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", ["base", "tuned"])
def test_a_head_that_only_one_of_the_two_ties(tmp_path: Path, tied: str):
    models = {side: make_model(tie_word_embeddings=side == tied) for side in ("base", "tuned")}
    folders = [save(tmp_path / side, model, make_tokenizer()) for side, model in models.items()]
    matrices = {
        side: [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
        for side, model in models.items()
    }
    moved = [
        float((after - before).detach().norm())
        for before, after in zip(matrices["base"], matrices["tuned"], strict=True)
    ]
    pair = ModelPair.load(*folders)
    norms = change_norms(pair)
    if tied == "base":
        # It has one matrix for both: the noise is as large as the two changes together.
        assert norms == {"model.embed_tokens.weight": pytest.approx(math.hypot(*moved))}
    else:
        assert norms == {
            name: pytest.approx(norm)
            for name, norm in zip(
                ("model.embed_tokens.weight", "lm_head.weight"), moved, strict=True
            )
            if norm > 0
        }
        with pytest.raises(ModelError, match=r"ties lm_head\.weight, the base does not"):
            Mixer(pair)
    null = null_pair(pair, norms)
    assert not torch.equal(null.logits("tuned", IDS, MASK), pair.logits("base", IDS, MASK))
