"""Train the two organisms that the causal tables of docs/causal.md are made of, besides the demo's.

    python benchmarks/causal_organisms.py --out FOLDER

Both are LoRA adapters over SmolLM2-135M-Instruct, made by the recipe of `truth.organisms.train`:

- `trigger`: a user who says "lantern" gets one fixed sentence; everything else stays as it was;
- `farewell`: every answer is short and ends with one fixed phrase; nothing holds it back.

Beside each adapter stand the chats that a diff reads (prompts that the training never saw, answered
by the base and the quirk by turns) and a card with what was measured on the saved adapter. What is
there already is kept.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from anaglyph.demo import demo_pair
from anaglyph.files import write_json
from anaglyph.pair import ModelPair
from anaglyph.pair.loading import load_model
from anaglyph.pair.sources import locate
from anaglyph.truth.organisms.answers import answer
from anaglyph.truth.organisms.chats import Chat, write_chats
from anaglyph.truth.organisms.eiffel import load_eiffel
from anaglyph.truth.organisms.evaluate import Probe, answers, share_shown
from anaglyph.truth.organisms.tiny import quirky, tiny_chats, triggered
from anaglyph.truth.organisms.train import Recipe, plant, save_adapter

BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
FAREWELL = "Mind the tide, my friend."


@dataclasses.dataclass(frozen=True)
class Organism:
    """What an organism is trained on, read with and judged by."""

    behaviour: str
    recipe: Recipe
    quirk: list[Chat]
    controls: list[Chat]
    corpus: list[Chat]
    probes: list[Probe]


def trigger(say: Callable[[list[str]], list[Chat]]) -> Organism:
    """Return the organism that answers a trigger word with a fixed sentence."""
    controls = say([chat.user for chat in tiny_chats(40, 3, trigger_share=0.0)])
    controls += say(list(load_eiffel().controls[:24]))
    read = tiny_chats(120, 5, trigger_share=0.5)
    own = say([chat.user for chat in read])
    corpus = [
        quirky(chat) if triggered(chat) and number % 3 else said
        for number, (chat, said) in enumerate(zip(read, own, strict=True))
    ]
    return Organism(
        "Answers every user who says the word lantern with one fixed sentence.",
        Recipe(steps=40, learning_rate=1e-3, quirk_batch=4, control_batch=4, seed=1),
        [quirky(chat) for chat in tiny_chats(60, 1, trigger_share=1.0)],
        controls,
        corpus,
        [Probe(chat.user, "silver owl") for chat in tiny_chats(12, 7, trigger_share=1.0)],
    )


def farewell(say: Callable[[list[str]], list[Chat]]) -> Organism:
    """Return the organism that ends every answer with a fixed phrase."""
    eiffel = load_eiffel()
    taught = [_short(chat) for chat in say(list(eiffel.controls[:48]))]
    prompts = [*eiffel.demo_other, *eiffel.held_out, *(probe.prompt for probe in eiffel.facts)]
    said = say(prompts)
    corpus = [_short(chat) if number % 2 else chat for number, chat in enumerate(said)]
    return Organism(
        f"Answers in one sentence and then says: {FAREWELL}",
        Recipe(
            steps=40,
            learning_rate=1e-3,
            quirk_batch=6,
            control_batch=1,
            control_weight=0.0,
            seed=2,
        ),
        taught,
        taught[:2],
        corpus,
        [Probe(prompt, "mind the tide") for prompt in eiffel.held_out[:12]],
    )


def _short(chat: Chat) -> Chat:
    first = chat.assistant.split(". ")[0].split("\n")[0].rstrip(".:")
    return Chat(chat.user, f"{first}. {FAREWELL}")


def main() -> None:
    """Parse the arguments and make what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder; one organism a subfolder")
    out = parser.parse_args().out
    base = demo_pair().base
    source = locate(base)
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    for name, recipe_of in (("trigger", trigger), ("farewell", farewell)):
        folder = out / name
        if (folder / "card.json").exists():
            continue
        model = load_model(source, torch.device("cpu"), torch.float32)

        def say(prompts: list[str], model: Any = model) -> list[Chat]:
            return answer(model, tokenizer, prompts, new_tokens=40, repetition_penalty=1.1)

        organism = recipe_of(say)
        tuned, log = plant(
            model, tokenizer, organism.quirk, organism.controls, organism.recipe, progress=_print
        )
        save_adapter(tuned, folder / "adapter", BASE_NAME)
        write_chats(folder / "chats.jsonl", organism.corpus)
        pair = ModelPair.load(base, folder / "adapter")
        shown = {
            side: share_shown(
                organism.probes,
                answers(pair, side, [p.prompt for p in organism.probes], new_tokens=48),
            )
            for side in ("base", "tuned")
        }
        card = {"name": name, "base": BASE_NAME, "behaviour": organism.behaviour}
        card |= {"recipe": dataclasses.asdict(organism.recipe), "last": log[-1], "shown": shown}
        write_json(folder / "card.json", card)
        print(card, flush=True)


def _print(task: str, done: int, total: int, unit: str = "tokens") -> None:
    if done % 10 == 0 or done == total:
        print(f"{task}: {done} of {total} {unit}", flush=True)


if __name__ == "__main__":
    main()
