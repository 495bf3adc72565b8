"""A tiny pair, corpora and random dictionaries, and the slow way to every number of the tables."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from anaglyph.causal import causal_table
from anaglyph.core.settings import CausalSettings, Settings
from anaglyph.corpus import TokenCorpus
from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method
from anaglyph.pair import ModelPair
from anaglyph.store import DifferenceSpace
from anaglyph.subject import Subject

VOCABULARY, WIDTH, LAYERS, LATENTS = 40, 16, 4, 12
LAYER = 1


def make_base() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        max_position_embeddings=32,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model


def save_pair(folder: Path) -> tuple[Path, Path]:
    """Write a base model and a LoRA adapter large enough to matter at every layer."""
    model = make_base()
    model.save_pretrained(folder / "base")
    words = {f"w{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / "base")
    with warnings.catch_warnings():
        # peft asks transformers by a name that is going out of use.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(str(folder / "adapter"))
    return folder / "base", folder / "adapter"


def make_corpus(sequences: int = 30, seed: int = 0) -> TokenCorpus:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 12, size=sequences)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenCorpus(
        token_ids=generator.integers(0, VOCABULARY, size=offsets[-1]).astype(np.int32),
        roles=np.full(offsets[-1], 5, dtype=np.uint8),
        offsets=offsets,
        context=16,
    )


def make_dictionary(method: str, seed: int = 0, bias: float = 0.3) -> Dictionary:
    """Return random weights; about half of the latents fire at a token."""
    generator = torch.Generator().manual_seed(seed)
    spec = get_method(method)
    sources = len(spec.sources)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weights = Weights(
        tuple(draw(LATENTS, WIDTH) / 4 for _ in range(sources)),
        0.1 * draw(LATENTS),
        tuple(draw(LATENTS, WIDTH) / 3 for _ in range(sources)),
        tuple(bias * draw(WIDTH) for _ in range(sources)),
    )
    return Dictionary(spec, weights, Selection(k=4, threshold=0.2))


def make_table(column: str, seed: int = 0) -> pl.DataFrame:
    """Return a latent table with a few latents under each threshold, dead and undetermined ones."""
    nu = [0.1, 0.9, 0.3, None, 0.5, -0.2, 1.4, 0.6, 0.61, 0.8, None, 1.0]
    alive = [True] * LATENTS
    alive[9] = False
    generator = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "latent": range(LATENTS),
            "alive": alive,
            column: nu,
            "frequency": np.where(alive, generator.uniform(0.2, 0.8, LATENTS), 0.0),
            "mean_activation": np.where(alive, generator.uniform(0.5, 1.5, LATENTS), 0.0),
            "difference_share": generator.permutation(LATENTS) / 100,
        }
    )


def make_chats(sequences: int = 30, seed: int = 0) -> TokenCorpus:
    """Return the same tokens with roles: two template tokens, user, template, then a reply."""
    corpus = make_corpus(sequences, seed)
    roles = np.full(corpus.n_tokens, 4, dtype=np.uint8)
    for start, end in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True):
        roles[start:end][:4] = [1, 1, 3, 1][: end - start]
    return TokenCorpus(corpus.token_ids, roles, corpus.offsets, corpus.context)


def subject_of(
    pair: ModelPair,
    corpus: TokenCorpus,
    layer: int = LAYER,
    *,
    seed: int = 0,
    space: DifferenceSpace | None = None,
) -> Subject:
    subject = Subject.of(pair=pair, corpus=corpus, layer=layer, settings=Settings(seed=seed))
    if space is not None:
        subject.space = space
    return subject


def patch_everywhere(
    subject: Subject,
    dic: Dictionary,
    table: pl.DataFrame | None = None,
    *,
    token_budget: int = 1024,
    **settings: Any,
) -> pl.DataFrame:
    """Return the causal table, judged at all tokens unless the settings say otherwise."""
    chosen = CausalSettings(**{"positions": ("all",), "full": True, **settings})
    return causal_table(subject, dic, table, chosen, token_budget=token_budget)


def naive_codes(dic: Dictionary, inputs: list[Tensor]) -> Tensor:
    """Encode by the formula of docs/maths.md, section 1, dense."""
    total = dic.encoder_bias.clone().double()
    norms = torch.zeros(dic.n_latents)
    for source, values in enumerate(inputs):
        if dic.spec.centred:
            values = values - dic.decoder_bias[source]
        total = total + values.double() @ dic.encoder[source].T.double()
        norms += dic.decoder[source].norm(dim=1)
    codes = total.clamp_min(0)
    assert dic.threshold is not None
    return (codes * (codes * norms > dic.threshold)).float()


def naive_activations(
    pair: ModelPair, side: Literal["base", "tuned"], ids: Tensor, layer: int
) -> Tensor:
    """Return one sequence's activations [length, d] from the whole model's own output."""
    with pair.side(side) as model, torch.no_grad():
        return model(ids[None], output_hidden_states=True).hidden_states[layer + 1][0]


def naive_logits(
    pair: ModelPair, side: Literal["base", "tuned"], ids: Tensor, layer: int, edited: Tensor | None
) -> Tensor:
    """Return one sequence's logits with a plain hook that replaces a block's output."""
    with pair.side(side) as model, torch.no_grad():
        if edited is None:
            return model(ids[None]).logits[0].double()
        whole: Any = model.get_decoder()

        def replace(_module: object, _inputs: object, output: Any) -> Any:
            return (edited[None], *output[1:]) if isinstance(output, tuple) else edited[None]

        handle = whole.layers[layer].register_forward_hook(replace)
        try:
            return model(ids[None]).logits[0].double()
        finally:
            handle.remove()


Edit = Callable[[Tensor, Tensor], Tensor]


class Slow:
    """What the slow way needs of a sequence again and again, computed once."""

    def __init__(self, pair: ModelPair, corpus: TokenCorpus, layer: int) -> None:
        self.pair, self.corpus, self.layer = pair, corpus, layer
        self._known: dict[int, dict[str, Tensor]] = {}

    def of(self, sequence: int) -> dict[str, Tensor]:
        if sequence not in self._known:
            ids = torch.from_numpy(self.corpus.sequence(sequence)[0]).long()
            pair, layer = self.pair, self.layer
            self._known[sequence] = {
                "ids": ids,
                "base": naive_activations(pair, "base", ids, layer),
                "tuned": naive_activations(pair, "tuned", ids, layer),
                "base logits": naive_logits(pair, "base", ids, layer, None),
                "tuned logits": naive_logits(pair, "tuned", ids, layer, None),
            }
        return self._known[sequence]

    def logits(self, sequence: int, edit: Edit, into: Literal["base", "tuned"] = "tuned") -> Tensor:
        known = self.of(sequence)
        edited = edit(known["base"], known["tuned"])
        return naive_logits(self.pair, into, known["ids"], self.layer, edited)

    def kl(self, edit: Edit | None, sequences: np.ndarray) -> np.ndarray:
        """Return each sequence's KL sum under an edit of (base, tuned); None: base itself."""
        sums = []
        for sequence in sequences.tolist():
            p = self.of(sequence)["tuned logits"].log_softmax(-1)
            q = self.of(sequence)["base logits"] if edit is None else self.logits(sequence, edit)
            sums.append(float((p.exp() * (p - q.log_softmax(-1))).sum()))
        return np.array(sums)


def naive_kl(
    pair: ModelPair, corpus: TokenCorpus, layer: int, edit: Edit | None, sequences: np.ndarray
) -> np.ndarray:
    """Return each sequence's KL sum under an edit (base, tuned) -> edited; None: the base model."""
    return Slow(pair, corpus, layer).kl(edit, sequences)
