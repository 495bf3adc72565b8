"""What cheap looks say of a finding: a planted weight edit's direction, and KL where it fires."""

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anaglyph.behaviour.outputs import kept_gap
from anaglyph.behaviour.predictions import both_models
from anaglyph.core.schemas import Finding
from anaglyph.core.settings import FindSettings
from anaglyph.corpus import load_corpus
from anaglyph.demo import tiny_pair
from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method
from anaglyph.direct.tokens import token_differences
from anaglyph.findings.baselines import with_baselines
from anaglyph.findings.discovery import Discovery
from anaglyph.pair import ModelPair
from anaglyph.store import collect
from anaglyph.subject import Subject

WIDTH, MOST, THRESHOLD = 128, 600, 0.01
WRITTEN, OTHER = torch.eye(WIDTH)[3], torch.eye(WIDTH)[5]


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> ModelPair:
    """The tiny base, and itself with one direction added to what block 1's MLP writes."""
    base, folder = tiny_pair().base, tmp_path_factory.mktemp("edited") / "model"
    shutil.copytree(base, folder)
    name = "model.layers.1.mlp.down_proj.weight"
    weights = {k: v.float() for k, v in load_file(str(base / "model.safetensors")).items()}
    read = torch.randn(weights[name].shape[1], generator=torch.Generator().manual_seed(0))
    weights[name] = weights[name] + 2.0 * torch.outer(WRITTEN, read)
    save_file(weights, str(folder / "model.safetensors"), {"format": "pt"})
    return ModelPair.load(base, folder)


def found() -> Discovery:
    """Return findings along both directions and a mean shift, as a search would."""
    rows = torch.stack([WRITTEN, OTHER])
    weights = Weights((rows,), torch.zeros(2), (rows,), (torch.zeros(WIDTH),))
    dic = Dictionary(get_method("diff-sae"), weights, Selection(k=1.0, threshold=THRESHOLD))
    new = Finding(
        kind="new",
        direction_base=None,
        direction_tuned=tuple(WRITTEN.tolist()),
        effect=1.0,
        q_value=0.01,
        evidence={"difference_share": 0.5, "agreement": {"mean difference": 0.25}},
    )
    shift = new.model_copy(update={"kind": "mean-shift", "evidence": {"difference_share": 0.1}})
    return Discovery((new, new, shift), dic, (0, 1, None), None, None)


def told(pair: ModelPair, layer: int, gap_tokens: int = MOST) -> Discovery:
    corpus = load_corpus(tiny_pair().corpus[0], pair.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        store = collect(pair, corpus, layers=[layer], out=Path(folder) / "activations")
        subject = Subject.of(pair=pair, corpus=corpus, store=store)
        kept_gap(subject, gap_tokens)
        return with_baselines(subject, found(), FindSettings(find_tokens=MOST))


def test_texts_whose_predictions_were_not_compared_before_are_read(edited: ModelPair):
    before, now = (told(edited, 1, tokens).findings[0].evidence for tokens in (MOST, 50))
    assert now["kl_here"] == pytest.approx(before["kl_here"], rel=1e-4)
    assert now["kl_elsewhere"] == pytest.approx(before["kl_elsewhere"], rel=1e-4)


def test_the_edit_s_direction_is_one_that_the_weights_write(edited: ModelPair):
    corpus = load_corpus(tiny_pair().corpus[0], edited.tokenizer)
    planted, other, shift = told(edited, 1).findings
    assert planted.evidence["agreement"]["weight directions"] == pytest.approx(1, abs=1e-4)
    assert other.evidence["agreement"]["weight directions"] == pytest.approx(0, abs=1e-3)
    assert planted.evidence["agreement"]["mean difference"] == 0.25
    assert "agreement" not in shift.evidence
    # KL as the table of tokens has it, where the difference along the direction is large enough.
    chosen = corpus.draw_heldout(MOST, 0)
    (batch,) = both_models(edited, corpus, [1], sequences=chosen, token_budget=10 * MOST)
    kl = (
        token_differences(Subject.of(pair=edited, corpus=corpus, layer=1))
        .tokens["kl"]
        .to_numpy()[batch.tokens]
    )
    fires = ((batch.tuned[1] - batch.base[1]) @ WRITTEN).numpy() > THRESHOLD
    assert 0.05 < fires.mean() < 0.95
    assert planted.evidence["kl_here"] == pytest.approx(kl[fires].mean(), rel=1e-4)
    assert planted.evidence["kl_elsewhere"] == pytest.approx(kl[~fires].mean(), rel=1e-4)
    # The other direction fires nowhere.
    assert other.evidence["kl_here"] is None
    assert other.evidence["kl_elsewhere"] == pytest.approx(kl.mean(), rel=1e-4)


def test_what_is_written_after_the_layer_is_not_compared(edited: ModelPair):
    first = told(edited, 0).findings[0]
    assert first.evidence["agreement"]["weight directions"] == 0
    # Nothing differs there either.
    assert first.evidence["kl_here"] is None


def test_weights_that_are_in_no_file_are_not_compared():
    pair = ModelPair.load(tiny_pair().base, tiny_pair().tuned)
    pair.names = (str(Path("nowhere")), pair.names[1])
    said = told(pair, 1)
    assert said.findings[0].evidence["agreement"]["weight directions"] is None
    assert "weights" in str(said.unread)
    assert "nowhere" in str(said.unread)
