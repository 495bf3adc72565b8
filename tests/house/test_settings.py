"""Settings of a run: files, overrides, and one clear line for each mistake."""

import pytest

from anaglyph.core.errors import InputError
from anaglyph.core.settings import Section, Settings, load_settings, sections


def test_overrides_win_over_the_file_and_none_leaves_it(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('layer = 0.25\nlatents = 512\nmethods = ["crosscoder"]\n')
    config = load_settings(file, latents=64, k=None)
    assert config.collect.layer == 0.25
    assert (config.train.latents, config.train.methods) == (64, ("crosscoder",))


def test_json_is_read_alike(tmp_path):
    file = tmp_path / "run.json"
    file.write_text('{"layer": 3, "seed": 7}')
    assert load_settings(file) == Settings().changed(layer=3, seed=7)


def test_an_index_stays_an_index_and_a_fraction_a_fraction():
    assert isinstance(load_settings(None, layer=13).collect.layer, int)
    assert isinstance(load_settings(None, layer=0.5).collect.layer, float)


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
        load_settings(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        load_settings(tmp_path / "nowhere.toml")


def test_changes_are_checked_like_everything_else():
    assert Settings().changed(k=4).train.k == 4
    with pytest.raises(InputError, match="k: "):
        Settings().changed(k=0)


def test_k_may_be_a_fraction_or_auto():
    assert load_settings(None, k=0.16).train.k == 0.16
    assert load_settings(None, k="auto").train.k == "auto"
    with pytest.raises(InputError, match="k: 'best' must be a number or auto"):
        load_settings(None, k="best")
    with pytest.raises(InputError, match="k=200 exceeds latents=100"):
        load_settings(None, k=200, latents=100)
    with pytest.raises(InputError, match=r"^mu: .*greater than or equal to 0"):
        load_settings(None, mu=-1.0)


def test_a_file_may_be_flat_or_by_section(tmp_path):
    flat, nested = tmp_path / "flat.json", tmp_path / "nested.json"
    flat.write_text('{"latents": 64, "rate": 0.2, "seed": 3}')
    nested.write_text('{"train": {"latents": 64}, "find": {"rate": 0.2}, "seed": 3}')
    assert load_settings(flat) == load_settings(nested)


def test_names_are_unique_over_all_sections():
    names = [name for kind in sections().values() for name in kind.model_fields]
    own = [name for name in Settings.model_fields if name not in sections()]
    assert len({*names, *own, *sections()}) == len(names) + len(own) + len(sections())


def test_every_setting_has_a_sentence():
    for kind in (Settings, *Section.__subclasses__()):
        for name, field in kind.model_fields.items():
            if name not in sections():
                assert (field.description or "").endswith("."), f"{kind.__name__}.{name}"
