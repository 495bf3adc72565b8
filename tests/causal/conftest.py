"""The tiny pair, saved and loaded once."""

from pathlib import Path

import pytest
from causal_cases import make_corpus, save_pair

from anaglyph.corpus import TokenCorpus
from anaglyph.pair import ModelPair


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_pair(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="session")
def pair(folders: tuple[Path, Path]) -> ModelPair:
    return ModelPair.load(*folders)


@pytest.fixture(scope="session")
def corpus() -> TokenCorpus:
    return make_corpus()
