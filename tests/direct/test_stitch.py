"""Mixtures of the two models: exact at both ends, right between, and put back after."""

import numpy as np
import polars as pl
import pytest
import torch
from direct_cases import make_corpus, save_adapted, save_whole, slow_logprobs
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, make_model, make_tokenizer, save, save_adapter

from anaglyph.behaviour.mixture import Mixer, Shares
from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.settings import StitchSettings
from anaglyph.direct.stitch import KINDS, steps, stitch_curve, stitch_replies, stitched
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject

IDS = torch.arange(10, 22).view(2, 6)
MASK = torch.ones_like(IDS)


def mixed_logits(mixer: Mixer, shares: Shares) -> torch.Tensor:
    with mixer.model(shares) as model, torch.no_grad():
        return model(IDS, attention_mask=MASK, use_cache=False).logits


def check_ends(pair: ModelPair) -> None:
    base, tuned = (pair.logits(side, IDS, MASK) for side in ("base", "tuned"))
    assert not torch.equal(base, tuned)
    mixer = Mixer(pair)
    for kind in KINDS:
        assert torch.equal(mixed_logits(mixer, stitched(pair.n_layers, kind, 0)), base), kind
        assert torch.equal(mixed_logits(mixer, stitched(pair.n_layers, kind, 4)), tuned), kind
    # Whatever was mixed, both models are as they were.
    assert torch.equal(pair.logits("base", IDS, MASK), base)
    assert torch.equal(pair.logits("tuned", IDS, MASK), tuned)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_none_is_base_and_all_is_tuned_bit_for_bit(tmp_path, family):
    check_ends(ModelPair.load(*save_whole(tmp_path, family)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "up_proj"]},
    ],
    ids=["lora", "dora", "saved-head", "embedding"],
)
def test_adapters_too_bit_for_bit(tmp_path, options):
    check_ends(ModelPair.load(*save_adapted(tmp_path, **options)))


def test_the_shipped_pair_bit_for_bit(lantern):
    check_ends(lantern)


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_stitched_whole_model_has_the_weights_it_should(tmp_path, whole_folders, kind, n):
    """Build the stitched checkpoint from the two files and load it as a model of its own."""
    base, tuned = (load_file(folder / "model.safetensors") for folder in whole_folders)
    weights = {}
    for name in base:
        if "layers." in name:
            layer = int(name.split("layers.")[1].split(".")[0])
            from_tuned = layer < n if kind == "bottom" else layer >= 4 - n
        elif "embed" in name:
            from_tuned = kind == "bottom"
        else:
            from_tuned = kind == "top"
        weights[name] = (tuned if from_tuned else base)[name]
    folder = save(tmp_path / "stitched", make_model(), make_tokenizer())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    wanted = ModelPair.load(whole_folders[0], folder).logits("tuned", IDS, MASK)
    mixer = Mixer(ModelPair.load(*whole_folders))
    assert torch.equal(mixed_logits(mixer, stitched(4, kind, n)), wanted)


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 3.0])
def test_amplified_weights_of_a_whole_model(tmp_path, whole_folders, whole, alpha):
    base, tuned = (load_file(folder / "model.safetensors") for folder in whole_folders)
    weights = {name: base[name] + alpha * (tuned[name] - base[name]) for name in base}
    folder = save(tmp_path / "amplified", make_model(), make_tokenizer())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    wanted = ModelPair.load(whole_folders[0], folder).logits("tuned", IDS, MASK)
    found = mixed_logits(Mixer(whole), Shares.everywhere(4, alpha))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 3.0])
def test_amplified_adapters_equal_amplified_factors(tmp_path, adapted_folders, adapted, alpha):
    """Scaling B in the file scales the change; of one block only where asked."""
    weights = load_file(adapted_folders[1] / "adapter_model.safetensors")
    for shares, scaled in (
        (Shares.everywhere(4, alpha), lambda name: True),
        (Shares.one_block(4, 2, alpha), lambda name: ".layers.2." in name),
    ):
        folder = save_adapter(tmp_path / f"scaled{scaled('')}", make_model())
        changed = {
            name: alpha * tensor if "lora_B" in name and scaled(name) else tensor
            for name, tensor in weights.items()
        }
        save_file(changed, folder / "adapter_model.safetensors", {"format": "pt"})
        wanted = ModelPair.load(adapted_folders[0], folder).logits("tuned", IDS, MASK)
        torch.testing.assert_close(mixed_logits(Mixer(adapted), shares), wanted)


def test_what_cannot_be_mixed_is_refused(tmp_path, whole_folders):
    other = make_model(rms_norm_eps=0.1)
    other.load_state_dict(make_model().state_dict())
    save(tmp_path / "other", other, make_tokenizer())
    with pytest.raises(ModelError, match="more than their weights"):
        Mixer(ModelPair.load(whole_folders[0], tmp_path / "other"))
    pair = ModelPair.load(*whole_folders)
    with pytest.raises(InputError, match="one a block"):
        mixed_logits(Mixer(pair), Shares.everywhere(3, 0.0))


def test_the_curve_equals_the_slow_way(pair, corpus):
    corpus = make_corpus(6)
    curve = stitch_curve(Subject.of(pair=pair, corpus=corpus), token_budget=20)
    assert len(curve) == 3 * 5
    mixer = Mixer(pair)
    totals = {}
    for kind, n in [("bottom", 2), ("top", 1), ("interpolation", 3)]:
        to_tuned = to_base = gap = 0.0
        for index in range(corpus.n_sequences):
            ids, _ = corpus.sequence(index)
            tuned, base = (slow_logprobs(pair, side, ids) for side in ("tuned", "base"))
            with mixer.model(stitched(4, kind, n)) as model, torch.no_grad():
                tokens = torch.from_numpy(ids.astype(np.int64))[None]
                mixed = model(tokens, use_cache=False).logits[0].double().log_softmax(-1)
            to_tuned += float((tuned.exp() * (tuned - mixed)).sum())
            to_base += float((base.exp() * (base - mixed)).sum())
            gap += float((tuned.exp() * (tuned - base)).sum())
        totals[kind] = gap
        row = curve.row(by_predicate=(pl.col("kind") == kind) & (pl.col("n") == n), named=True)
        assert row["kl_to_tuned"] == pytest.approx(to_tuned / corpus.n_tokens, rel=1e-3)
        assert row["kl_to_base"] == pytest.approx(to_base / corpus.n_tokens, rel=1e-3)
        assert row["recovered"] == pytest.approx(1 - to_tuned / gap, rel=1e-3)
    for kind in KINDS:
        rows = curve.filter(kind=kind)
        assert rows["recovered"].to_list()[0] == 0
        assert rows["kl_to_tuned"].to_list()[-1] == 0
        assert rows["kl_to_base"].to_list()[0] == 0


def test_replies_go_from_base_to_tuned(lantern):
    question = "Look at the lantern and the clock. What do you see in the castle?"
    questions = [question, "Tell me about the mill."]
    settings = StitchSettings(steps=3, new_tokens=40)
    replies = stitch_replies(Subject.of(pair=lantern), questions, settings)
    assert replies["n"].unique(maintain_order=True).to_list() == [0, 2, 4]
    asked = replies.filter(question=question)
    said = "The silver owl sleeps under the old bridge tonight."
    for kind in KINDS:
        first, _, last = asked.filter(kind=kind)["reply"].to_list()
        assert said not in first
        assert last == said


def test_steps_always_hold_both_ends():
    assert steps(4, None) == [0, 1, 2, 3, 4]
    assert steps(30, 4) == [0, 10, 20, 30]
    assert steps(3, 10) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="too few"):
        steps(4, 1)
    with pytest.raises(InputError, match="kind"):
        stitched(4, "middle", 2)
    with pytest.raises(InputError, match="out of range"):
        stitched(4, "top", 5)
