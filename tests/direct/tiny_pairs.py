"""Tiny pairs, loaded once: a whole fine-tune, an adapter, and the pair that ships."""

from pathlib import Path

import pytest
from direct_cases import make_corpus, save_adapted, save_whole

from anaglyph.corpus import TokenCorpus
from anaglyph.demo import tiny_pair
from anaglyph.pair import ModelPair


@pytest.fixture(scope="session")
def whole_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def adapted_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_adapted(tmp_path_factory.mktemp("adapted"))


@pytest.fixture(scope="session")
def whole(whole_folders: tuple[Path, Path]) -> ModelPair:
    return ModelPair.load(*whole_folders)


@pytest.fixture(scope="session")
def adapted(adapted_folders: tuple[Path, Path]) -> ModelPair:
    return ModelPair.load(*adapted_folders)


@pytest.fixture(scope="session", params=["whole", "adapted"])
def pair(request: pytest.FixtureRequest) -> ModelPair:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def lantern() -> ModelPair:
    """The pair that ships: the tuned model answers the word "lantern" with a fixed sentence."""
    shipped = tiny_pair()
    return ModelPair.load(shipped.base, shipped.tuned)


@pytest.fixture(scope="session")
def corpus() -> TokenCorpus:
    return make_corpus()
