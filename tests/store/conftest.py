"""A pair of tiny random models on disk, and a corpus for them."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from anaglyph.corpus import Document, TokenCorpus, load_corpus
from anaglyph.pair import ModelPair

WORDS = ["<unk>", *(f"w{index}" for index in range(40))]


def _save(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=64,
            initializer_range=0.5,
        )
    )
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a base and a tuned model."""
    root = tmp_path_factory.mktemp("models")
    return _save(root / "base", 0), _save(root / "tuned", 1)


@pytest.fixture(scope="session")
def pair(folders: tuple[Path, Path]) -> ModelPair:
    return ModelPair.load(*folders)


@pytest.fixture(scope="session")
def same_pair(folders: tuple[Path, Path]) -> ModelPair:
    return ModelPair.load(folders[0], folders[0])


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """Twelve texts of 2 to 13 tokens."""
    return [
        Document(text=" ".join(f"w{(7 * text + word) % 40}" for word in range(2 + text)))
        for text in range(12)
    ]


@pytest.fixture(scope="session")
def corpus(pair: ModelPair, documents: list[Document]) -> TokenCorpus:
    return load_corpus(documents, pair.tokenizer)
