"""The activation difference lens on a shift that was planted, and its null pair."""

import numpy as np
import polars as pl
import pytest
import torch
from direct_cases import TEMPLATE, make_corpus, save_adapted, slow_hidden
from tiny_models import make_model, make_tokenizer, save

from anaglyph.behaviour.null_pair import change_norms, null_pair
from anaglyph.core.errors import InputError
from anaglyph.core.settings import LensSettings, Settings
from anaglyph.direct.lens import _IDENTITY, difference_lens, patchscope
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject

LAYER, TOKEN = 1, 40
SETTINGS = LensSettings(texts=12, new_tokens=4, top=3, strengths=(1.0,))


def lens(pair, corpus, seed=0, **changes):
    subject = Subject.of(pair=pair, corpus=corpus, layer=LAYER, settings=Settings(seed=seed))
    return difference_lens(subject, SETTINGS.model_copy(update=changes), ["ab", "c"])


@pytest.fixture(scope="module")
def texts():
    return make_corpus(30, longest=15)


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """GPT-2 with one bias changed: every token is shifted towards one token's unembedding."""
    folder = tmp_path_factory.mktemp("shifted")
    model, tokenizer = make_model("gpt2"), make_tokenizer(template=TEMPLATE)
    save(folder / "base", model, tokenizer)
    with torch.no_grad():
        vector = model.lm_head.weight[TOKEN] - model.lm_head.weight.mean(0)
        model.transformer.h[LAYER].mlp.c_proj.bias += vector
    save(folder / "tuned", model, tokenizer)
    return ModelPair.load(folder / "base", folder / "tuned"), vector.detach()


def test_a_planted_shift_is_read(shifted, texts):
    pair, vector = shifted
    found = lens(pair, texts)
    tuned = found.shift.filter(pair="tuned")
    np.testing.assert_allclose(tuned["shift_norm"], float(vector.norm()), rtol=1e-4)
    np.testing.assert_allclose(tuned["alike"], 1, rtol=1e-4)
    np.testing.assert_allclose(tuned["agreement"], 1, rtol=1e-4)
    first = found.tokens.filter(pl.col("rank") == 1, method="logit lens", pair="tuned")
    assert first["token_id"].to_list() == [TOKEN] * 5
    null = found.tokens.filter(pl.col("rank") == 1, method="logit lens", pair="null")
    assert TOKEN not in null["token_id"].to_list()


def test_the_null_pair_moves_as_far_and_leaves_no_trace(pair, texts):
    ids, _ = texts.sequence(0)
    before = slow_hidden(pair, "base", ids, LAYER), slow_hidden(pair, "tuned", ids, LAYER)
    found = lens(pair, texts)
    after = slow_hidden(pair, "base", ids, LAYER), slow_hidden(pair, "tuned", ids, LAYER)
    assert all(torch.equal(*sides) for sides in zip(before, after, strict=True))
    size = {name: found.shift.filter(pair=name)["token_norm"].mean() for name in ("tuned", "null")}
    assert size["null"] == pytest.approx(size["tuned"], rel=0.1)
    again = lens(pair, texts)
    assert again.tokens.equals(found.tokens)
    other = lens(pair, texts, seed=1)
    is_null = pl.col("pair") == "null"
    assert not other.tokens.filter(is_null).equals(found.tokens.filter(is_null))
    assert other.tokens.filter(~is_null).equals(found.tokens.filter(~is_null))


def test_the_mean_shift_equals_the_slow_way(pair, texts):
    found = lens(pair, texts, positions=3).shift
    chosen = [i for i in range(texts.n_sequences) if texts.lengths[i] >= 3][:12]
    deltas = []
    for index in chosen:
        ids = texts.sequence(index)[0][:3]
        base, tuned = (slow_hidden(pair, side, ids, LAYER) for side in ("base", "tuned"))
        deltas.append(tuned - base)
    mean = torch.stack(deltas).mean(0)
    np.testing.assert_allclose(
        found.filter(pair="tuned")["shift_norm"], mean.norm(dim=1), rtol=1e-3
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"modules_to_save": ["lm_head"], "target_modules": ["up_proj", "q_proj"]}],
    ids=["lora", "saved-head"],
)
def test_changes_of_adapters_are_measured(tmp_path, options):
    from anaglyph.direct.weights import weight_changes

    folders = save_adapted(tmp_path, **options)
    norms = change_norms(ModelPair.load(*folders))
    wanted = {change.name: change.norm for change in weight_changes(*folders)}
    # PEFT puts its own layers between: model.layers.0.q_proj.base_layer.weight.
    found = {
        name.removesuffix(".weight").removesuffix(".base_layer").removesuffix(".original_module"):
        norm for name, norm in norms.items()
    }  # fmt: skip
    assert found == pytest.approx(wanted, rel=1e-4)


def test_noise_has_the_norm_of_the_change(whole):
    norms = change_norms(whole)
    with whole.side("base") as model:
        before = {name: p.clone() for name, p in model.named_parameters()}
    null = null_pair(whole, norms, 2.0)
    with null.side("tuned") as model:
        for name, parameter in model.named_parameters():
            moved = float((parameter - before[name]).norm())
            assert moved == pytest.approx(2 * norms[name], rel=1e-3)
    for pair in (null, whole):
        with pair.side("base") as model:
            assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_null_pair_differs_from_where_the_change_begins(whole):
    norms = change_norms(whole)
    late = {name: norm for name, norm in norms.items() if ".layers.1." in name}
    assert late
    null = null_pair(whole, late)
    assert null.adapted_from == 1
    ids = torch.arange(12)[None]
    both = null.run_both_to(ids, torch.ones_like(ids), [0, 1])
    assert torch.equal(both["base"][0], both["tuned"][0])
    assert not torch.equal(both["base"][1], both["tuned"][1])
    again = null_pair(whole, late, seed=1)
    assert again.fingerprints["tuned"] != null.fingerprints["tuned"]
    assert again.fingerprints["base"] == null.fingerprints["base"]


def test_a_patchscope_equals_a_plain_hook(pair):
    vector = torch.randn(pair.d_tuned, generator=torch.Generator().manual_seed(2))
    ids = torch.tensor([pair.tokenizer(_IDENTITY)["input_ids"]])

    def replace(_module, _inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, -1] = vector
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with pair.side("tuned") as model, torch.no_grad():
        handle = model.get_decoder().layers[LAYER].register_forward_hook(replace)
        wanted = model(ids, use_cache=False).logits[0, -1]
        handle.remove()
    torch.testing.assert_close(patchscope(pair, LAYER, vector), wanted)


def test_a_pair_of_one_model_has_no_shift(whole_folders, texts):
    pair = ModelPair.load(whole_folders[0], whole_folders[0])
    found = lens(pair, texts)
    assert found.shift["shift_norm"].sum() == 0
    assert found.shift["alike"].null_count() == 10
    assert len(found.tokens) == 0
    said = {row["reply"] for row in found.replies.filter(prompt="ab").to_dicts()}
    assert len(said) == 1  # nothing is added in any of them


def test_texts_that_are_too_short_are_refused(pair, texts):
    with pytest.raises(InputError, match="fewer than 2 texts have 16"):
        lens(pair, texts, positions=16)
