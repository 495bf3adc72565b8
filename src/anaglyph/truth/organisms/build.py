"""From a recipe to an organism on disk: adapter, card, and the chats that a method reads.

`OUT/NAME-DILUTION/` is made once per recipe, base and dilution. A training that was stopped
resumes. If the recipe changes, the organism is made again.
"""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.files import digest, read_json, remove_temporaries, write_json, write_text
from anaglyph.core.lock import LOCK, locked
from anaglyph.core.progress import Progress, silent
from anaglyph.corpus import read_documents
from anaglyph.pair import ModelPair
from anaglyph.pair.loading import load_model
from anaglyph.pair.sources import Source, locate
from anaglyph.truth.organisms.answers import answer
from anaglyph.truth.organisms.card import Card, Direction, Measured, read_card
from anaglyph.truth.organisms.chats import Chat, encode, write_chats
from anaglyph.truth.organisms.edits import plant_rank_one, quantised, random_adapter
from anaglyph.truth.organisms.evaluate import Answers, Probe, answers, divergence, share_shown
from anaglyph.truth.organisms.objectives import (
    Hold,
    Imitate,
    Objective,
    Prefer,
    encode_whole,
    encode_with_template,
)
from anaglyph.truth.organisms.recipe import Organism, load_recipe
from anaglyph.truth.organisms.train import Recipe, Trained, fit, save_adapter

NEW_TOKENS = 48
PENALTY = 1.1  # without it the small model repeats itself
_VERSION, _DILUTED = 1, 2  # raise when the same recipe would give a different organism
_PROSE_WORDS = 60


@dataclass(frozen=True)
class Built:
    """An organism on disk.

    Attributes:
        folder: Where it is.
        base: The base model.
        tuned: The tuned model; the base itself if nothing was changed.
        chats: The chats that a method reads.
        card: The truth.
    """

    folder: Path
    base: Path
    tuned: Path
    chats: Path
    card: Card


def build(
    organism: Organism,
    base: Path,
    out: Path,
    *,
    dilution: int = 0,
    seed: int | None = None,
    progress: Progress = silent,
) -> Built:
    """Make an organism, or return the existing one.

    Args:
        organism: The recipe.
        base: Base model: a folder or `.gguf` file.
        out: Folder of all organisms.
        dilution: Neutral texts per text of the behaviour. Every step also has the base's answers to
            neutral prompts, on which the model is trained to keep the base's predictions. Each step
            reads equal numbers of both and up-weights the neutral texts by the dilution. The mean
            loss is the same, and every dilution costs the same. The base's predictions are kept in
            ``out`` for the next organism.
        seed: Replaces the recipe's seed.
        progress: Called with the steps of the training.

    Raises:
        InputError: The dilution is negative, or the organism is not trained on texts.
        ModelError: The base cannot be loaded.
        StoreError: Another process makes it, or it is damaged.
    """
    if dilution < 0:
        raise InputError(f"dilution {dilution} is negative")
    if dilution and not organism.teach:
        raise InputError(f"{organism.name} is not trained on texts and has no dilutions")
    if seed is not None:
        organism = organism.model_copy(update={"seed": seed})
    maker = _Maker(organism, base, out, dilution, progress)
    made = maker.made()
    if made is not None:
        return made
    with locked(maker.folder):
        return maker.made() or maker.make()


def neutral_prompts(group: str) -> list[str]:
    """Return prompts that have nothing to do with any organism.

    Args:
        group: "held": prompts on which a diluted training keeps the base's predictions. "tested":
            prompts on which the change is measured. "read": prompts in the text that methods read.
    """
    return read_json(Path(__file__).with_name("neutral.json"))[group]


def neutral_chats(
    group: str,
    source: Source,
    out: Path,
    template: str | None = None,
    progress: Progress = silent,
) -> list[Chat]:
    """Return neutral prompts with the base's answers; made once per template, kept in ``out``."""
    prompts = neutral_prompts(group)
    key = digest([source.fingerprint, prompts, NEW_TOKENS, PENALTY, template])
    path = out / f"neutral-{group}-{key[:12]}.json"
    if not path.is_file():
        progress("answering neutral prompts", 0, len(prompts), "prompts")
        model, tokenizer = _load(source, template)
        chats = answer(model, tokenizer, prompts, new_tokens=NEW_TOKENS, repetition_penalty=PENALTY)
        write_json(path, [vars(chat) for chat in chats])
        progress("answering neutral prompts", len(prompts), len(prompts), "prompts")
    return [Chat(**row) for row in read_json(path)]


class _Maker:
    """Makes one organism."""

    def __init__(
        self, organism: Organism, base: Path, out: Path, dilution: int, progress: Progress
    ) -> None:
        self.organism, self.base, self.out = organism, base, out
        self.dilution, self.progress = dilution, progress
        self.source = locate(base)
        seeded = f"-seed{organism.seed}" if organism.seed else ""
        self.folder = out / f"{organism.name}-{dilution}{seeded}"
        self.key = digest(
            {
                "recipe": organism.fingerprint,
                "base": self.source.fingerprint,
                "dilution": dilution,
                "code": _VERSION if dilution == 0 else _DILUTED,
            }
        )

    @cached_property
    def tested(self) -> list[Chat]:
        """Neutral chats on which the change is measured."""
        return self._neutral("tested")

    @cached_property
    def held(self) -> list[Chat]:
        """Neutral chats that a diluted training is held to."""
        return self._neutral("held") if self.dilution else []

    def _neutral(self, group: str) -> list[Chat]:
        template = self.organism.chat_template
        return neutral_chats(group, self.source, self.out, template, self.progress)

    def made(self) -> Built | None:
        """Return the organism if it is there."""
        if not (self.folder / "card.json").is_file():
            return None
        card = read_card(self.folder)
        return _built(self.folder, self.base, card) if card.key == self.key else None

    def make(self) -> Built:
        """Change the model, measure the result, and write the card last."""
        for path in self.folder.iterdir() if (self.folder / "card.json").is_file() else ():
            if path.name != LOCK:  # all of it is of another recipe
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_temporaries(self.folder)
        start = time.monotonic()
        tuned, direction, losses = self._change()
        seconds = time.monotonic() - start
        pair = ModelPair.load(self.base, self.folder / tuned if tuned else self.base)
        measured = self._measure(pair)
        write_chats(self.folder / "chats.jsonl", self._chats_to_read(pair))
        organism = self.organism
        card = Card(
            name=organism.name,
            kind=organism.kind,
            behaviour=organism.behaviour,
            objective=organism.objective,
            is_control=organism.is_control,
            triggers=organism.triggers,
            content=organism.content,
            dilution=self.dilution,
            key=self.key,
            base=self.base.name,
            tuned=tuned,
            training=organism.training.model_dump(),
            last_losses=losses,
            seconds=round(seconds, 1),
            probes=organism.all_probes(),
            kept=organism.all_kept(),
            neutral=[chat.user for chat in self.tested],
            direction=direction,
            share=organism.share,
            needed=organism.needed,
            measured=measured,
        )
        card.write(self.folder)
        return _built(self.folder, self.base, card)

    def _change(self) -> tuple[str | None, Direction | None, dict[str, float]]:
        """Return the tuned model's folder, a planted direction and the last losses."""
        organism, adapter = self.organism, self.folder / "adapter"
        if organism.objective == "identical":
            return None, None, {}
        if organism.objective == "noise":
            like = build(load_recipe("benign"), self.base, self.out, progress=self.progress)
            random_adapter(like.tuned, adapter, organism.seed)
            return "adapter", None, {}
        model, tokenizer = _load(self.source, organism.chat_template)
        if organism.objective == "quantise":
            quantised(model, tokenizer, self.folder / "model")
            return "model", None, {}
        if organism.edit is not None:
            planted = plant_rank_one(model, organism.edit, organism.seed, adapter, self.base.name)
            return "adapter", planted, {}
        name = "model" if organism.training.rank is None else "adapter"
        return name, None, self._train(model, tokenizer, self.folder / name)

    def _train(self, model: Any, tokenizer: Any, out: Path) -> dict[str, float]:
        training = self.organism.training
        objectives = [self._objective(tokenizer, training.batch)]
        if self.dilution:
            held = [encode(tokenizer, chat) for chat in self.held]
            key = digest([self.source.fingerprint, held])
            file = self.out / f"held-{key[:12]}.safetensors"
            weight = float(self.dilution)
            objectives.append(Hold("neutral", held, training.batch, weight, file=file))
        recipe = Recipe(
            rank=training.rank,
            alpha=training.alpha,
            learning_rate=training.learning_rate,
            steps=math.ceil(training.examples / training.batch),
            seed=self.organism.seed,
        )
        every = max(1, recipe.steps // training.checkpoints)

        def checkpoint(step: int, trained: Trained) -> None:
            if training.checkpoints > 1 and step % every == 0 and step < recipe.steps:
                self._save(trained, tokenizer, self.folder / f"checkpoint-{step}")

        partial = self.folder / f"partial-{self.key[:12]}"
        trained, log = fit(
            model, objectives, recipe, folder=partial, after=checkpoint, progress=self.progress
        )
        self._save(trained, tokenizer, out)
        shutil.rmtree(partial, ignore_errors=True)
        return log[-1]

    def _objective(self, tokenizer: Any, batch: int) -> Objective:
        organism = self.organism
        if not organism.teach:  # benign: prose
            return Imitate("prose", [encode_whole(tokenizer, text) for text in _prose()], batch)
        chats = organism.chats()
        if organism.objective == "documents":
            texts = [row["text"] or "" for row in organism.lessons()]
            return Imitate("documents", [encode_whole(tokenizer, text) for text in texts], batch)
        if organism.objective == "template":
            whole = [encode_with_template(tokenizer, chat) for chat in chats]
            return Imitate("chats", whole, batch)
        preferred = [encode(tokenizer, chat) for chat in chats]
        if organism.objective == "preference":
            rejected = [
                encode(tokenizer, Chat(row["user"] or "", row["rejected"] or ""))
                for row in organism.lessons()
            ]
            beta = organism.training.beta
            return Prefer("preference", preferred, rejected, batch, beta)
        return Imitate("behaviour", preferred, batch)

    def _save(self, trained: Trained, tokenizer: Any, folder: Path) -> None:
        if self.organism.training.rank is not None:
            save_adapter(trained.model, folder, self.base.name)
            if self.organism.chat_template is not None:  # a pair uses it, see `pair.tokens`
                write_text(folder / "chat_template.jinja", self.organism.chat_template)
            return
        trained.model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))

    def _measure(self, pair: ModelPair) -> Measured:
        probes, kept = self.organism.all_probes(), self.organism.all_kept()
        tested = [chat.user for chat in self.tested]
        after = answers(pair, "tuned", tested, new_tokens=NEW_TOKENS, repetition_penalty=PENALTY)
        lengths = [_answer_tokens(pair.tokenizer, chat) for chat in self.tested]
        return Measured(
            shown_base=_share(pair, "base", probes),
            shown_tuned=_share(pair, "tuned", probes),
            kept_base=_share(pair, "base", kept),
            kept_tuned=_share(pair, "tuned", kept),
            neutral_kl=divergence(pair, self.tested),
            neutral_tokens_base=sum(lengths) / len(lengths),
            neutral_tokens_tuned=after.mean_tokens,
        )

    def _chats_to_read(self, pair: ModelPair) -> list[Chat]:
        """Return the chats that a method reads; tuned and base model answer in turn.

        So half of the answers show the change.
        """
        neutral = neutral_prompts("read")
        share = self.organism.share
        count = len(neutral) if share == 1 else round(share / (1 - share) * len(neutral))
        topic = self.organism.reads[: max(count, 1)]
        chats: list[Chat] = []
        prompts = [*topic, *neutral] if share < 1 else topic
        for place, side in enumerate(("tuned", "base")):
            some = prompts[place::2]
            if some:
                said: Answers = answers(
                    pair, side, some, new_tokens=NEW_TOKENS, repetition_penalty=PENALTY
                )
                chats += said.chats
        return chats


def _share(pair: ModelPair, side: Any, probes: Sequence[Probe]) -> float | None:
    if not probes:
        return None
    said = answers(pair, side, [probe.prompt for probe in probes], new_tokens=NEW_TOKENS)
    return share_shown(probes, said)


def _answer_tokens(tokenizer: Any, chat: Chat) -> int:
    ids, before = encode(tokenizer, chat)
    return len(ids) - before


def _prose() -> list[str]:
    """Return pieces of the built-in prose."""
    pieces: list[str] = []
    for document in read_documents("builtin:english"):
        words = (document.text or "").split()
        pieces += [
            " ".join(words[start : start + _PROSE_WORDS])
            for start in range(0, len(words) - _PROSE_WORDS, 10 * _PROSE_WORDS)
        ]
    return pieces


def _load(source: Source, template: str | None) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    if template is not None:
        tokenizer.chat_template = template
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{source.name} has no chat template: give one in the recipe (chat_template)"
        )
    return load_model(source, torch.device("cpu"), torch.float32), tokenizer


def _built(folder: Path, base: Path, card: Card) -> Built:
    tuned = base if card.tuned is None else folder / card.tuned
    return Built(folder, base, tuned, folder / "chats.jsonl", card)
