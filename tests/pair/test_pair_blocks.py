"""Running to and from a layer, against the model's own forward, for every family."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import transformers
from tiny_models import FAMILIES, make_model
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from anaglyph.core.errors import InputError, ModelError
from anaglyph.pair.blocks import BlockModel, find_blocks

Batch = tuple[Tensor, Tensor]
LAST = 3


@pytest.fixture(scope="module", params=FAMILIES)
def cut(request: pytest.FixtureRequest) -> BlockModel:
    return BlockModel(make_model(request.param))


def count_calls(cut: BlockModel) -> list[int]:
    """Count each block's real computations: its normalisation runs whenever its forward does."""
    calls = [0] * cut.depth
    for i, block in enumerate(cut.blocks):
        norm = next(m for name, m in block.named_modules() if "norm" in name or name == "ln_1")

        def count(*_: Any, i: int = i) -> None:
            calls[i] += 1

        norm.register_forward_hook(count)
    return calls


def test_run_to_gives_the_hidden_states_of_every_layer(cut: BlockModel, batch: Batch):
    ids, mask = batch
    with torch.no_grad():
        out = cut.model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    got = cut.run_to(ids, mask, [2, 0, 1, LAST])
    assert sorted(got) == [0, 1, 2, 3]
    for layer in range(LAST):
        torch.testing.assert_close(got[layer], out.hidden_states[layer + 1], rtol=0, atol=0)
    # The last hidden state of transformers is already normed: norm ours to compare.
    decoder = cut.model.get_decoder()
    norm = next(
        getattr(decoder, name)
        for name in ("norm", "ln_f", "final_layer_norm")
        if hasattr(decoder, name)
    )
    torch.testing.assert_close(norm(got[LAST]), out.hidden_states[-1], rtol=0, atol=0)
    assert not torch.allclose(got[LAST], out.hidden_states[-1])


@pytest.mark.parametrize("layer", range(LAST + 1))
def test_run_from_own_activations_gives_the_logits(cut: BlockModel, batch: Batch, layer: int):
    ids, mask = batch
    logits = cut.logits(ids, mask)
    resumed = cut.run_from(layer, cut.run_to(ids, mask, [layer])[layer], ids, mask)
    torch.testing.assert_close(resumed, logits, rtol=0, atol=1e-5)


def test_logits_are_computed_only_where_they_are_kept(cut: BlockModel, batch: Batch):
    ids, mask = batch
    keep = torch.zeros_like(ids, dtype=torch.bool)
    keep[0, 3] = keep[1, 1] = keep[1, 4] = True
    hidden = cut.run_to(ids, mask, [1])[1]
    whole = cut.logits(ids, mask)
    for got in (cut.logits(ids, mask, keep), cut.run_from(1, hidden, ids, mask, keep)):
        assert got.shape == (3, cut.vocabulary)
        torch.testing.assert_close(got, whole[keep], rtol=1e-5, atol=1e-5)
    assert cut.logits(ids, mask, keep & False).shape == (0, cut.vocabulary)
    one = cut.logits(ids[:1], mask[:1], keep[:1])
    torch.testing.assert_close(one, whole[:1][keep[:1]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cut.logits(ids, mask), whole, rtol=0, atol=0)


def test_run_from_uses_the_edit(cut: BlockModel, batch: Batch):
    ids, mask = batch
    hidden = cut.run_to(ids, mask, [1])[1]
    edited = hidden.clone()
    edited[0, 4] += torch.linspace(-1, 1, cut.width)
    changed = (cut.run_from(1, edited, ids, mask) != cut.logits(ids, mask)).any(dim=-1)
    # Causal: only the edited position and later ones of that sequence can move.
    assert not changed[0, :4].any()
    assert changed[0, 4]
    assert not changed[1].any()


def test_padding_does_not_reach_real_tokens(cut: BlockModel, batch: Batch):
    ids, mask = batch
    alone = cut.run_to(ids[1:, :5], mask[1:, :5], [2])[2]
    padded = cut.run_to(ids, mask, [2])[2][1:, :5]
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_outside_the_wanted_stretch_are_not_computed(family: str, batch: Batch):
    cut = BlockModel(make_model(family))
    calls = count_calls(cut)
    logits_computed = []
    head = cast(nn.Module, cut.model.get_output_embeddings())
    head.register_forward_hook(lambda *_: logits_computed.append(1))

    hidden = cut.run_to(*batch, [1])[1]
    assert calls == [1, 1, 0, 0]
    assert not logits_computed
    cut.run_from(1, hidden, *batch)
    assert calls == [1, 1, 1, 1]
    assert logits_computed == [1]
    cut.logits(*batch)
    assert calls == [2, 2, 2, 2]


def test_a_failure_inside_leaves_no_hook_behind(batch: Batch):
    cut = BlockModel(make_model())
    before = cut.logits(*batch)
    with pytest.raises(RuntimeError):
        cut.run_from(2, torch.zeros(2, 9, cut.width + 1), *batch)
    with pytest.raises(IndexError):
        cut.run_to(torch.full((1, 2), 10_000), torch.ones(1, 2, dtype=torch.int64), [1])
    assert all(not block._forward_hooks for block in cut.blocks)
    assert all("forward" not in vars(block) for block in cut.blocks)
    assert torch.equal(cut.logits(*batch), before)


def test_a_replaced_forward_comes_back(batch: Batch):
    cut = BlockModel(make_model())
    original = cut.blocks[0].forward
    vars(cut.blocks[0])["forward"] = lambda *args, **kwargs: original(*args, **kwargs) * 2
    replaced = vars(cut.blocks[0])["forward"]
    cut.run_from(1, torch.zeros(2, 9, cut.width), *batch)
    assert vars(cut.blocks[0])["forward"] is replaced


class TupleBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden_states: Tensor, use_cache: bool) -> tuple[Tensor, None]:
        return hidden_states + self.linear(hidden_states).tanh(), None


class TupleModel(PreTrainedModel):
    """Built as older GPT-2s were: blocks called by keyword, each returning ``(hidden, None)``."""

    config_class = PreTrainedConfig
    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__(
            PreTrainedConfig(hidden_size=4, num_hidden_layers=3, vocab_size=8)  # pyright: ignore
        )
        self.embed = nn.Embedding(8, 4)
        self.h = nn.ModuleList(TupleBlock() for _ in range(3))

    def get_decoder(self) -> nn.Module:
        return self

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool
    ) -> SimpleNamespace:
        hidden = self.embed(input_ids)
        for block in self.h:
            hidden, nothing = block(hidden_states=hidden, use_cache=use_cache)
            assert nothing is None
        return SimpleNamespace(logits=hidden @ self.embed.weight.T)


def test_blocks_that_return_tuples():
    torch.manual_seed(0)
    model = TupleModel()
    cut = BlockModel(model)
    ids = torch.tensor([[1, 2, 3]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        first = model.embed(ids)
        first = first + model.h[0].linear(first).tanh()  # type: ignore[operator]
    hidden = cut.run_to(ids, mask, [0, 1])
    torch.testing.assert_close(hidden[0], first)
    for layer in (0, 1):
        resumed = cut.run_from(layer, hidden[layer], ids, mask)
        assert torch.equal(resumed, cut.logits(ids, mask))


def test_gradients_reach_the_edit_only_when_asked(batch: Batch):
    cut = BlockModel(make_model())
    hidden = cut.run_to(*batch, [1])[1]
    assert not cut.run_from(1, hidden, *batch).requires_grad
    hidden.requires_grad_()
    cut.run_from(1, hidden, *batch)[0, 4, 3].backward()
    assert hidden.grad is not None
    reached = hidden.grad.abs().sum(dim=-1) > 0
    assert reached[0, :5].all()
    assert not reached[0, 5:].any()
    assert not reached[1].any()
    assert all(parameter.grad is None for parameter in cut.model.parameters())


def test_blocks_of_ambiguous_length_are_refused():
    def stack(depth: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(1, 1) for _ in range(depth))

    class Whole(PreTrainedModel):
        def get_decoder(self, *_: Any, **__: Any) -> nn.Module:
            return self

    model: Any = Whole(transformers.LlamaConfig())
    model.encoder, model.decoder = stack(2), stack(3)
    # A list of the same length inside a block, such as its experts, is not a second candidate.
    model.decoder[0].experts = stack(3)
    assert find_blocks(model, 3) == list(model.decoder)
    with pytest.raises(ModelError, match="none has that length"):
        find_blocks(model, 4)
    # Nor is a tower for images.
    model.vision_tower = nn.Module()
    model.vision_tower.layers = stack(3)
    assert find_blocks(model, 3) == list(model.decoder)
    model.projections = stack(3)
    with pytest.raises(ModelError, match=r"decoder, vision_tower\.layers, projections"):
        find_blocks(model, 3)
    model.layers = stack(3)
    assert find_blocks(model, 3) == list(model.layers)


def test_an_output_embedding_that_is_called_the_decoder():
    """As ModernBERT's decoder calls its own: the blocks are in the base model then."""
    config = transformers.ModernBertDecoderConfig(
        vocab_size=96, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, pad_token_id=0, local_attention=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = transformers.ModernBertDecoderForCausalLM(config).eval()
    assert isinstance(model.get_decoder(), nn.Linear)
    cut = BlockModel(model)
    assert cut.blocks == list(model.model.layers)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True).hidden_states[1]
    found = cut.run_to(ids, torch.ones_like(ids), [0])[0]
    torch.testing.assert_close(found, expected)


def test_blocks_that_hand_on_more_than_the_tokens_are_refused():
    config = transformers.ProphetNetConfig(
        vocab_size=96, hidden_size=16, decoder_ffn_dim=32, num_decoder_layers=2,
        num_decoder_attention_heads=2, is_decoder=True, pad_token_id=0,
    )  # fmt: skip
    model = transformers.ProphetNetForCausalLM(config)
    with pytest.raises(
        ModelError, match="cannot be divided at its blocks: they do not hand on one"
    ):
        BlockModel(model)


def test_a_model_with_state_beside_the_residual_stream_is_refused():
    model = make_model()
    first, last = model.model.layers[0], model.model.layers[3]
    forward_first, forward_last = first.forward, last.forward
    kept: list[Tensor] = []

    def keep(*args: Any, **kwargs: Any) -> Tensor:
        kept[:] = [forward_first(*args, **kwargs)]
        return kept[0]

    def use(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return forward_last(hidden + kept.pop(), *args, **kwargs) if kept else hidden

    first.forward, last.forward = keep, use
    model.register_forward_pre_hook(lambda *_: kept.clear())
    with pytest.raises(ModelError, match="cannot be resumed from layer 2"):
        BlockModel(model)


def test_keys_and_values_shared_between_blocks_are_refused_in_one_line():
    """As in the smaller Gemma 3n and 4: the last blocks have no keys and values of their own."""
    kinds = ["sliding_attention", "full_attention"] * 2
    config = transformers.Gemma4TextConfig(
        vocab_size=96, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_kv_shared_layers=2,
        vocab_size_per_layer_input=96, hidden_size_per_layer_input=4, layer_types=kinds,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Gemma4ForCausalLM(config)
    with pytest.raises(ModelError, match=r"cannot be resumed from layer 2.*keys and values"):
        BlockModel(model)


def test_a_model_with_a_row_for_each_position_refuses_longer_texts():
    """The family that embeds positions has 64 of them; one that computes them reads on."""
    for length in (64, 65):
        ids = torch.arange(length)[None] % 90
        mask = torch.ones_like(ids)
        assert BlockModel(make_model("llama")).logits(ids, mask).shape[1] == length
        cut = BlockModel(make_model("gpt2"))
        if length == 64:
            assert cut.logits(ids, mask).isfinite().all()
            continue
        with pytest.raises(InputError, match="positions for 64 tokens, and is asked to read 65"):
            cut.logits(ids, mask)
        with pytest.raises(InputError, match="lower --context"):
            cut.run_to(ids, mask, [1])
        with pytest.raises(InputError, match="--new-tokens"):
            cut.model(ids)
