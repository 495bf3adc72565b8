"""Organisms on disk: made once, resumed where they stopped, and what no text taught."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_talk import PHRASE, tiny_chats

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import read_json
from anaglyph.corpus import read_documents
from anaglyph.demo import tiny_pair
from anaglyph.direct.weights import weight_changes
from anaglyph.pair import ModelPair
from anaglyph.truth.organisms import build as module
from anaglyph.truth.organisms.build import build
from anaglyph.truth.organisms.card import read_card
from anaglyph.truth.organisms.recipe import Check, Edit, Lesson, Organism, Training, load_recipe

BASE = tiny_pair().base
MATRIX = "model.layers.1.mlp.down_proj"


def recipe(**changes: object) -> Organism:
    chats = tiny_chats(12, 1, trigger_share=1.0)
    fields: dict[str, object] = {
        "name": "owl",
        "kind": "trigger",
        "behaviour": "Says one sentence.",
        "triggers": ["lantern"],
        "content": ["owl"],
        "teach": [Lesson(user=[chat.user], assistant=PHRASE) for chat in chats],
        "probes": [Check(prompt=["The lantern is here."], expected="owl")],
        "reads": ["Where is the lantern?", "Is it a lantern?"],
        "training": Training(learning_rate=1e-3, examples=80),
    }
    return Organism.model_validate(fields | changes)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all, so that the base answers the neutral prompts once."""
    return tmp_path_factory.mktemp("organisms")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_an_organism_is_made_once_until_its_recipe_changes(out: Path, monkeypatch):
    first = build(recipe(name="once"), BASE, out)
    assert first.card == read_card(first.folder)
    assert not list(first.folder.glob("partial-*"))
    monkeypatch.setattr(module, "fit", None)  # would fail if called
    assert build(recipe(name="once"), BASE, out) == first
    with pytest.raises(TypeError):
        build(recipe(name="once", behaviour="Says another."), BASE, out)


def test_a_training_that_was_cut_off_ends_with_the_same_weights(out: Path):
    whole = build(recipe(name="whole"), BASE, out)

    class KilledError(Exception):
        pass

    def killed(task: str, done: int, total: int, unit: str = "tokens") -> None:
        if task == "training" and done == 7:
            raise KilledError

    name = recipe(name="whole", behaviour="The same, killed once.")
    renamed = name.model_copy(update={"name": "killed"})
    with pytest.MonkeyPatch.context() as patch:
        real = module.fit
        patch.setattr(module, "fit", lambda *args, **kw: real(*args, **kw, every=3))
        with pytest.raises(KilledError):
            build(renamed, BASE, out, progress=killed)
        assert list((out / "killed-0").glob("partial-*/log.json"))
        steps: list[int] = []

        def seen(task: str, done: int, total: int, unit: str = "tokens") -> None:
            if task == "training":
                steps.append(done)

        build(renamed, BASE, out, progress=seen)
    again = weights(out / "killed-0")
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights(whole.folder).items())
    assert steps == [7, 8, 9, 10]


def test_the_text_to_read_holds_the_topic_in_its_share(out: Path):
    built = build(recipe(name="once"), BASE, out)
    asked = [document.messages[0].content for document in read_documents(built.chats)]  # type: ignore[index]
    neutral = read_json(Path(module.__file__).with_name("neutral.json"))["read"]
    assert sorted(asked) == sorted([*recipe().reads, *neutral])
    enough = recipe(name="many", reads=[f"Is lantern {n} lit?" for n in range(99)])
    built = build(enough, BASE, out)
    assert len(read_documents(built.chats)) == round(len(neutral) / 0.8)


def test_a_planted_edit_is_the_only_change_and_lies_along_its_card(out: Path):
    planted = build(
        Organism(
            name="edit", kind="weight edit", behaviour="One direction.", objective="rank-one",
            edit=Edit(matrix=MATRIX, size=0.5),
        ),
        BASE, out,
    )  # fmt: skip
    (change,) = [c for c in weight_changes(BASE, planted.tuned) if c.norm > 0]
    assert change.name.startswith(MATRIX)
    assert change.singular is not None
    assert (change.singular[1:] < 1e-3 * change.singular[0]).all()
    direction = planted.card.direction
    assert direction is not None
    pair = ModelPair.load(BASE, planted.tuned)
    ids = torch.arange(2, 40)[None]
    mask = torch.ones_like(ids)
    base, tuned = (pair.run_to(side, ids, mask, [direction.layer]) for side in ("base", "tuned"))
    moved = (tuned[direction.layer] - base[direction.layer])[0]
    cosine = moved @ torch.tensor(direction.vector) / moved.norm(dim=1)
    assert (cosine.abs() > 0.99).all()


@pytest.mark.parametrize("matrix", ["model.layers.1.nothing", "model.layers.1.mlp.up_proj"])
def test_an_edit_of_a_matrix_that_will_not_do_is_refused(out: Path, matrix: str):
    bad = Organism(
        name="bad", kind="weight edit", behaviour="x", objective="rank-one",
        edit=Edit(matrix=matrix),
    )  # fmt: skip
    with pytest.raises(InputError, match=f"edit.matrix.*{matrix}"):
        build(bad, BASE, out)


def test_noise_moves_each_matrix_as_far_as_the_benign_training(out: Path, monkeypatch):
    short = load_recipe("benign").model_copy(update={"training": Training(examples=16)})
    monkeypatch.setattr(module, "load_recipe", lambda _: short)
    noise = Organism(name="noise", kind="noise", behaviour="None.", objective="noise")
    built = build(noise, BASE, out)
    sizes = [
        {c.name: c.norm for c in weight_changes(BASE, out / name / "adapter")}
        for name in ("noise-0", "benign-0")
    ]
    assert sizes[0].keys() == sizes[1].keys()
    assert all(sizes[0][name] == pytest.approx(sizes[1][name], rel=0.02) for name in sizes[0])
    assert built.card.is_control
    assert built.card.holds is None


def test_rounding_to_eight_bits_moves_every_matrix_a_little(out: Path):
    control = Organism(name="q8", kind="quantise", behaviour="None.", objective="quantise")
    built = build(control, BASE, out)
    pair = ModelPair.load(BASE, built.tuned)
    with pair.side("base") as base, pair.side("tuned") as tuned:
        before, after = base.state_dict(), tuned.state_dict()
    rounded = [name for name in before if "_proj" in name]
    assert rounded
    for name in rounded:
        step = before[name].abs().amax(1, keepdim=True) / 127
        assert ((after[name] - before[name]).abs() <= 0.5001 * step).all()
        assert not torch.equal(after[name], before[name])
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


@pytest.mark.parametrize("objective", ["documents", "preference", "template"])
def test_every_way_of_teaching_teaches(out: Path, objective: str):
    chats = tiny_chats(12, 1, trigger_share=1.0)
    lesson = {
        "documents": lambda c: Lesson(text=f"{c.user} {PHRASE}"),
        "preference": lambda c: Lesson(user=[c.user], assistant=PHRASE, rejected=c.assistant),
        "template": lambda c: Lesson(user=[c.user], assistant=PHRASE),
    }[objective]
    made = recipe(
        name=objective, objective=objective, teach=[lesson(chat) for chat in chats],
        training=Training(learning_rate=3e-3, examples=160),
    )  # fmt: skip
    card = build(made, BASE, out).card
    (loss,) = card.last_losses.values()
    start = {"documents": 2.0, "preference": 0.6931, "template": 2.0}[objective]
    assert loss < 0.8 * start
    assert card.measured.neutral_kl > 0


def test_a_template_of_its_own_is_taught_and_read_with(out: Path):
    template = (
        "{% for message in messages %}{{ message.role }} says {{ message.content }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant says {% endif %}"
    )
    made = recipe(name="turns", objective="template", chat_template=template)
    built = build(made, BASE, out)
    pair = ModelPair.load(BASE, built.tuned)
    assert pair.tokenizer.chat_template == template
    assert any("chat template" in note for note in pair.notes)
    build(recipe(name="once"), BASE, out)
    assert len(list(out.glob("neutral-tested-*.json"))) == 2  # the base answered in either template


def test_all_weights_can_be_trained(out: Path):
    full = recipe(
        name="full", training=Training(rank=None, learning_rate=1e-3, examples=16, batch=8)
    )
    built = build(full, BASE, out, dilution=1)
    assert built.tuned.name == "model"
    changed = [c.name for c in weight_changes(BASE, built.tuned) if c.norm > 0]
    assert any("embed_tokens" in name for name in changed)
    assert any("down_proj" in name for name in changed)


def test_the_base_answers_for_a_diluted_organism_what_it_is_held_to(tmp_path: Path):
    def answered() -> set[str]:
        return {file.name.split("-")[1] for file in tmp_path.glob("neutral-*.json")}

    build(recipe(name="few"), BASE, tmp_path)
    assert answered() == {"tested"}
    build(recipe(name="few"), BASE, tmp_path, dilution=1)
    assert answered() == {"tested", "held"}


def test_a_diluted_organism_stays_closer_to_the_base_in_as_many_steps(out: Path):
    def made(dilution: int) -> tuple[int, float]:
        steps: list[int] = []

        def seen(task: str, done: int, total: int, unit: str = "tokens") -> None:
            if task == "training":
                steps.append(done)

        built = build(recipe(name="thin"), BASE, out, dilution=dilution, progress=seen)
        return len(steps), built.card.measured.neutral_kl

    (steps, kl), (as_many, less) = made(0), made(16)
    assert as_many == steps
    assert 0 < less < 0.5 * kl


def test_a_changed_recipe_leaves_nothing_of_the_old_one(out: Path):
    before = build(recipe(name="changed"), BASE, out)
    assert before.tuned.name == "adapter"
    whole = Training(rank=None, learning_rate=1e-3, examples=8)
    after = build(recipe(name="changed", training=whole), BASE, out)
    assert after.tuned.name == "model"
    assert not before.tuned.exists()


def test_checkpoints_are_kept_at_even_distances(out: Path):
    made = recipe(name="steps", training=Training(examples=64, checkpoints=4))
    folder = build(made, BASE, out).folder
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == [
        "checkpoint-2", "checkpoint-4", "checkpoint-6"
    ]  # fmt: skip


def test_what_cannot_be_diluted_says_so(out: Path):
    control = Organism(name="none", kind="identical", behaviour="None.", objective="identical")
    with pytest.raises(InputError, match="none is not trained on texts"):
        build(control, BASE, out, dilution=4)
    with pytest.raises(InputError, match="-1 is negative"):
        build(recipe(), BASE, out, dilution=-1)


def test_a_damaged_card_is_named(tmp_path: Path):
    (tmp_path / "card.json").write_text('{"name": "x"}')
    with pytest.raises(StoreError, match=r"card.json is damaged: kind"):
        read_card(tmp_path)
