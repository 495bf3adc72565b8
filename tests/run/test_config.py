"""Settings of a run: files, overrides, and one clear line for each mistake."""

import pytest

from anaglyph.core.errors import InputError
from anaglyph.core.settings import DiffConfig, load_config


def test_overrides_win_over_the_file_and_none_leaves_it(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('layer = 0.25\nlatents = 512\nmethods = ["crosscoder"]\n')
    config = load_config(file, latents=64, k=None)
    assert (config.layer, config.latents, config.methods) == (0.25, 64, ("crosscoder",))


def test_json_is_read_alike(tmp_path):
    file = tmp_path / "run.json"
    file.write_text('{"layer": 3, "seed": 7}')
    assert load_config(file) == DiffConfig(layer=3, seed=7)


def test_an_index_stays_an_index_and_a_fraction_a_fraction():
    assert isinstance(load_config(None, layer=13).layer, int)
    assert isinstance(load_config(None, layer=0.5).layer, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"latent": 3}', "latent: "),
        ('{"latents": 0}', "latents: "),
        ('{"dtype": "float16"}', "dtype: "),
        ("[1]", "one object of settings"),
        ("{", "neither JSON nor TOML"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, message):
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")


def test_changes_are_checked_like_everything_else():
    assert DiffConfig().with_changes(k=4).k == 4
    with pytest.raises(InputError, match="k: "):
        DiffConfig().with_changes(k=0)


def test_k_may_be_a_fraction_or_auto():
    assert load_config(None, k=0.16).k == 0.16
    assert load_config(None, k="auto").k == "auto"
    with pytest.raises(InputError, match="k: 'best' must be a number or auto"):
        load_config(None, k="best")
    with pytest.raises(InputError, match="k=200 exceeds latents=100"):
        load_config(None, k=200, latents=100)
    with pytest.raises(InputError, match=r"^mu: .*greater than or equal to 0"):
        load_config(None, mu=-1.0)
