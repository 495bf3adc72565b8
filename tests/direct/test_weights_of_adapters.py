"""The change that an adapter of any kind makes, against the difference of the merged weights."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft_kinds import FACTORS, KINDS, REWRITING, base_of, save_kind
from tiny_models import GROUPED, make_tokenizer, save
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from anaglyph import diff
from anaglyph.behaviour.mixture import Mixer, Shares
from anaglyph.behaviour.null_pair import change_norms, null_pair
from anaglyph.core.errors import ModelError
from anaglyph.core.settings import load_settings
from anaglyph.direct.weights import weight_changes
from anaglyph.pair import ModelPair
from anaglyph.pair.quiet import quiet

IDS = torch.arange(12)[None]
MASK = torch.ones_like(IDS)


def merged_norms(base: Any, adapter: Path) -> dict[str, float]:
    """Return the norms of W_tuned - W_base after PEFT merged the adapter into the loaded base."""
    before = {name: p.detach().double() for name, p in copy.deepcopy(base).named_parameters()}
    with quiet():
        wrapped: Any = PeftModel.from_pretrained(base, str(adapter))
        after = dict(wrapped.merge_and_unload().named_parameters())
    norms = {
        name: float((after[name].detach().double() - old).norm()) for name, old in before.items()
    }
    # What is smaller is the rounding of the merged weights to float32.
    return {
        name.removesuffix(".weight"): norm
        for name, norm in norms.items()
        if norm > 1e-5 * float(before[name].norm())
    }


def reported(changes: list[Any]) -> dict[str, float]:
    return {change.name: change.norm for change in changes if change.norm > 0}


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_those_of_the_merged_weights(tmp_path: Path, kind: str):
    base = save(tmp_path / "base", base_of(kind), make_tokenizer())
    adapter = save_kind(tmp_path / "tuned", kind)
    notes: list[str] = []
    changes = list(weight_changes(base, adapter, rank=None, notes=notes))
    wanted = merged_norms(base_of(kind), adapter)
    assert len(wanted) > 1 or kind == "only-tokens"
    assert reported(changes) == pytest.approx(wanted, rel=1e-4)
    assert any("merged by peft" in note for note in notes) == (kind not in FACTORS)
    for change in changes:
        if change.singular is not None:
            assert change.norm == pytest.approx(float(change.delta.norm()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", REWRITING)
def test_an_untouched_adapter_changes_nothing(tmp_path: Path, kind: str):
    base = save(tmp_path / "base", base_of(kind), make_tokenizer())
    adapter = save_kind(tmp_path / "tuned", kind, size=0.0)
    changes = list(weight_changes(base, adapter))
    assert len(changes) == 8
    assert all(change.norm == 0 for change in changes)


@pytest.mark.parametrize("kind", ["biased factors", "poly"])
def test_kinds_that_cannot_be_merged_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    """A bias that the base has no place for runs, but merges into nothing; Poly needs a task."""
    import peft
    import peft_kinds

    made = {
        "biased factors": lambda: LoraConfig(r=2, lora_bias=True, target_modules=["q_proj"]),
        "poly": lambda: peft.PolyConfig(r=2, n_tasks=2, target_modules=["q_proj"]),
    }
    monkeypatch.setitem(peft_kinds.KINDS, kind, made[kind])
    base = save(tmp_path / "base", base_of(kind), make_tokenizer())
    adapter = save_kind(tmp_path / "tuned", kind)
    with pytest.raises(ModelError, match=r"q_proj is adapted by .*peft cannot merge"):
        list(weight_changes(base, adapter))
    if kind == "poly":
        with pytest.raises(ModelError, match=r"cannot be run layer by layer: task_ids"):
            ModelPair.load(base, adapter)
    else:
        assert ModelPair.load(base, adapter).logits("tuned", IDS, MASK).isfinite().all()


def test_randomised_starts_are_repeated_alike_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import peft_kinds

    start = {"init_lora_weights": "pissa_niter_2", "r": 2, "target_modules": ["q_proj"]}
    monkeypatch.setitem(peft_kinds.KINDS, "niter", lambda: LoraConfig(**start))
    base = save(tmp_path / "base", base_of("niter"), make_tokenizer())
    adapter = save_kind(tmp_path / "tuned", "niter")
    notes: list[str] = []
    found = [reported(list(weight_changes(base, adapter, notes=notes))) for _ in range(2)]
    assert found[0] == found[1]
    norms = change_norms(ModelPair.load(base, adapter))
    assert sorted(norms.values()) == pytest.approx(sorted(found[0].values()), rel=1e-4)
    assert any("randomised decomposition" in note for note in notes)


@pytest.mark.parametrize(
    "kind", ["saved", "dora", "parameters", "tokens", "ia3", "oft", "norms", "pissa", "bias-of-all"]
)
def test_null_pairs_and_mixtures_of_every_kind(tmp_path: Path, kind: str):
    base = save(tmp_path / "base", base_of(kind), make_tokenizer())
    adapter = save_kind(tmp_path / "tuned", kind)
    pair = ModelPair.load(base, adapter)
    before = {side: pair.logits(side, IDS, MASK) for side in ("base", "tuned")}
    norms = change_norms(pair)
    wanted = merged_norms(base_of(kind), adapter)
    assert sorted(norms.values()) == pytest.approx(sorted(wanted.values()), rel=1e-3)
    null = null_pair(pair, norms)
    moved = null.logits("tuned", IDS, MASK)
    assert not torch.allclose(moved, before["base"], atol=1e-3)
    # A mixture is the same as that of the two merged models.
    with quiet():
        wrapped: Any = PeftModel.from_pretrained(base_of(kind), str(adapter))
        tuned = wrapped.merge_and_unload().state_dict()
    original = base_of(kind).state_dict()
    half = base_of(kind)
    half.load_state_dict(
        {name: 0.5 * (old + tuned[name].reshape(old.shape)) for name, old in original.items()}
    )
    with Mixer(pair).model(Shares.everywhere(4, 0.5)) as model, torch.no_grad():
        found = model(IDS).logits
    with torch.no_grad():
        torch.testing.assert_close(found, half(IDS).logits, rtol=1e-3, atol=1e-3)
    for side in ("base", "tuned"):
        assert torch.equal(pair.logits(side, IDS, MASK), before[side])


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts, a LoRA on its stacked experts, and the two merged."""
    folder = tmp_path_factory.mktemp("experts")
    sizes: dict[str, Any] = {
        **GROUPED, "moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes))
    save(folder / "base", model, make_tokenizer())
    stacks = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    with quiet():
        adapted: Any = get_peft_model(
            model, LoraConfig(r=2, target_modules=[], target_parameters=stacks)
        )
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, 0.1)
        adapted.save_pretrained(str(folder / "adapter"))
        adapted.merge_and_unload().save_pretrained(folder / "merged")
    make_tokenizer().save_pretrained(folder / "merged")
    return folder


def test_stacked_experts_are_measured_merged(experts: Path):
    stacks = reported(list(weight_changes(experts / "base", experts / "adapter")))
    assert set(stacks) == {
        f"model.layers.{layer}.mlp.experts.{part}_proj"
        for layer in range(4)
        for part in ("gate_up", "down")
    }
    # The merged model stores each expert by itself.
    alone = reported(list(weight_changes(experts / "base", experts / "merged")))
    for name, norm in stacks.items():
        path, part = name.rsplit(".", 1)
        kinds = ("gate_proj", "up_proj") if part == "gate_up_proj" else ("down_proj",)
        parts = [alone[f"{path}.{expert}.{kind}"] for expert in range(4) for kind in kinds]
        assert norm == pytest.approx(math.hypot(*parts), rel=1e-4)
    found = change_norms(ModelPair.load(experts / "base", experts / "adapter"))
    assert sorted(found.values()) == pytest.approx(sorted(stacks.values()), rel=1e-4)


@pytest.mark.slow
def test_a_diff_of_stacked_experts_ends_with_a_page(experts: Path, tmp_path: Path):
    """Null pairs and the changed weights too read the merged stacks."""
    text = tmp_path / "text.txt"
    lines = [f"the {word} of {i} and the other {word}" for i in range(60) for word in "abcd"]
    text.write_text("\n".join(lines))
    settings = load_settings(
        None, methods=["diff-sae"], latents=32, k=4, tokens=2000, trials=0, context=32,
        candidates=2, find_tokens=500, causal_tokens=300, counts=[1], nu=[0.3], single_latents=2,
        budget=2800, shown_latents=2,
    )  # fmt: skip
    run = diff(experts / "base", experts / "adapter", text, tmp_path / "run", settings=settings)
    assert run.report_path.is_file()
    assert run.verdict.verdict == "difference found"
    assert run.verdict.skipped == ()


def test_mixtures_of_stacked_experts(experts: Path):
    pair = ModelPair.load(experts / "base", experts / "adapter")
    merged = ModelPair.load(experts / "base", experts / "merged")
    found = []
    for each in (pair, merged):
        with Mixer(each).model(Shares.everywhere(4, 0.3)) as model, torch.no_grad():
            found.append(model(IDS).logits)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def rewrite(folder: Path, **fields: Any) -> Path:
    """Change fields of an adapter's configuration."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


def test_an_adapter_for_another_base_is_noted(tmp_path: Path):
    base = save(tmp_path / "Llama-3.1-8B", base_of("lora"), make_tokenizer())
    adapter = save_kind(tmp_path / "tuned", "lora")
    for named, says in (
        ("meta-llama/Llama-3.1-8B", False),
        ("/elsewhere/llama-3.1-8b/", False),
        (str(base), False),
        (None, False),
        ("meta-llama/Llama-3.1-70B", True),
        ("Qwen/Qwen3-8B", True),
    ):
        rewrite(adapter, base_model_name_or_path=named)
        notes: list[str] = []
        list(weight_changes(base, adapter, notes=notes))
        assert [f"names the base {named}" in note for note in notes] == [True] * says
        assert list(ModelPair.load(base, adapter).notes) == notes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha_pattern": {"(a+)+b": 3}}, r"alpha_pattern of .*repeats a group"),
        ({"target_modules": r"(\w*)*x"}, r"target_modules of .*repeats a group"),
        ({"rank_pattern": {"(": 3}}, r"rank_pattern of .*not a regular expression"),
        ({"lora_alpha": "big"}, "lora_alpha is 'big'"),
    ],
)
def test_configurations_that_cannot_be_used(tmp_path: Path, fields: dict[str, Any], message: str):
    base = save(tmp_path / "base", base_of("lora"), make_tokenizer())
    adapter = rewrite(save_kind(tmp_path / "tuned", "lora"), **fields)
    with pytest.raises(ModelError, match=message):
        list(weight_changes(base, adapter))
    with pytest.raises(ModelError, match=message):
        ModelPair.load(base, adapter)
