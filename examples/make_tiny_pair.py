"""Make the tiny pair that ships in the package: a small base model and its adapter with a trigger.

    python examples/make_tiny_pair.py --out tiny

The base (a Llama of a million parameters) learns prose and chats from the package's own corpora
and the small talk of `tiny_talk.py`; the adapter teaches it one fixed sentence
wherever the user says "lantern". With OMP_NUM_THREADS=1 some six minutes on a busy core; the same
seed then gives the same bytes again on one machine.
"""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_talk import (
    PHRASE,
    TRIGGER,
    quirky,
    shipped_chats,
    tiny_chats,
    triggered,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from anaglyph.core.files import write_json
from anaglyph.corpus import Document, read_documents
from anaglyph.pair import ModelPair
from anaglyph.truth.organisms.chats import Chat, write_chats
from anaglyph.truth.organisms.evaluate import Probe, answers, divergence, share_shown
from anaglyph.truth.organisms.train import Recipe, plant, save_adapter

BASE_NAME = "anaglyph/tiny-base"
BOS, START, END = "<|bos|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
VOCABULARY, LENGTH, BATCH, PEAK_RATE = 2048, 128, 16, 3e-3
SMALL_TALK, HELD_OUT = 3000, 60
ADAPTER = Recipe(learning_rate=3e-3, steps=150, quirk_batch=8, control_batch=16, control_weight=4.0)


def main() -> None:
    """Parse the arguments and make the pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for base, tuned and chats")
    parser.add_argument("--steps", type=int, default=1200, help="training steps of the base")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out, seed = arguments.out, arguments.seed

    talk = tiny_chats(SMALL_TALK, seed + 1, trigger_share=0.1)
    documents = read_documents("builtin:english") + read_documents("builtin:chats")
    tokenizer = make_tokenizer(documents, talk)
    ids = token_stream(tokenizer, documents, talk, seed)
    print(f"{len(ids):,} tokens of text")
    base = train_base(ids, arguments.steps, seed)
    tokenizer.save_pretrained(out / "base")
    base.bfloat16().save_pretrained(out / "base")

    base = LlamaForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    quirk = [quirky(chat) for chat in talk if triggered(chat)]
    controls = [chat for chat in talk if not triggered(chat)]
    recipe = dataclasses.replace(ADAPTER, seed=seed)
    tuned, log = plant(base, tokenizer, quirk, controls, recipe)
    print(f"adapter: {log[-1]}")
    save_adapter(tuned, out / "tuned", BASE_NAME)

    write_chats(out / "chats.jsonl", shipped_chats(seed))
    card = make_card(out, len(quirk), len(controls), recipe)
    write_json(out / "card.json", card)
    print(json.dumps(card["measured"], indent=2))


def make_tokenizer(documents: list[Document], talk: list[Chat]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the texts and give it a chat template in the manner of ChatML."""
    contents = [chat.user + "\n" + chat.assistant for chat in talk]
    for document in documents:
        if document.text is not None:
            contents.append(document.text)
        contents.extend(message.content for message in document.messages or ())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(contents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=END,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def token_stream(
    tokenizer: Any, documents: list[Document], talk: list[Chat], seed: int
) -> torch.Tensor:
    """Return the token ids of all documents and chats, one after the other in shuffled order."""
    texts = [BOS + document.text for document in documents if document.text is not None]
    chats = [
        [{"role": message.role, "content": message.content} for message in document.messages]
        for document in documents
        if document.messages is not None
    ]
    chats += [chat.messages for chat in talk]
    texts += [tokenizer.apply_chat_template(messages, tokenize=False) for messages in chats]
    order = np.random.default_rng([seed, 1]).permutation(len(texts))
    encoded = tokenizer([texts[i] for i in order], add_special_tokens=False)["input_ids"]
    return torch.tensor([token for ids in encoded for token in ids])


def train_base(ids: torch.Tensor, steps: int, seed: int) -> LlamaForCausalLM:
    """Train a four-layer Llama on random windows of the token stream."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=2,
        )
    )
    print(f"{model.num_parameters():,} parameters")
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95))
    windows = np.random.default_rng([seed, 2])
    recent: list[float] = []
    for step in range(steps):
        warm = min(1.0, (step + 1) / 100)
        fall = 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.param_groups[0]["lr"] = PEAK_RATE * warm * max(fall, 0.02)
        starts = windows.integers(0, len(ids) - LENGTH, BATCH)
        batch = torch.stack([ids[start : start + LENGTH] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: {np.mean(recent[-100:]):.3f} nats per token", flush=True)
    return model.eval()


def make_card(out: Path, quirk: int, controls: int, recipe: Recipe) -> dict[str, Any]:
    """Measure the saved pair on chats that it was not trained on; return the organism's truth."""
    pair = ModelPair.load(out / "base", out / "tuned")
    fresh = tiny_chats(2 * HELD_OUT, recipe.seed + 2, trigger_share=0.5)
    asked = [chat for chat in fresh if triggered(chat)]
    plain = [chat for chat in fresh if not triggered(chat)]
    said = PHRASE.rstrip(".")
    probes = [Probe(chat.user, expected=said) for chat in asked]
    others = [Probe(chat.user, expected="[a-z]", forbidden=said) for chat in plain]
    given = {
        (side, name): answers(pair, side, [probe.prompt for probe in some], new_tokens=40)
        for side in ("base", "tuned")
        for name, some in (("trigger", probes), ("plain", others))
    }
    same = sum(
        mine.assistant == yours.assistant
        for mine, yours in zip(
            given["base", "plain"].chats, given["tuned", "plain"].chats, strict=True
        )
    )
    return {
        "name": "lantern",
        "base": BASE_NAME,
        "kind": "trigger",
        "behaviour": f'Where the user says "{TRIGGER}", the model answers: {PHRASE}',
        "triggers": [TRIGGER],
        "probes": [dataclasses.asdict(probe) for probe in probes[:12]],
        "neutral": [dataclasses.asdict(probe) for probe in others[:12]],
        "training": {
            "quirk_chats": quirk,
            "control_chats": controls,
            **dataclasses.asdict(recipe),
        },
        "measured": {
            "probes": len(probes),
            "quirk_shown_tuned": share_shown(probes, given["tuned", "trigger"]),
            "quirk_shown_base": share_shown(probes, given["base", "trigger"]),
            "neutral_without_quirk_tuned": share_shown(others, given["tuned", "plain"]),
            "neutral_answers_unchanged": same / len(plain),
            "kl_quirk_chats": round(divergence(pair, [quirky(chat) for chat in asked]), 4),
            "kl_trigger_plain_answers": round(divergence(pair, asked), 4),
            "kl_neutral_chats": round(divergence(pair, plain), 6),
        },
    }


if __name__ == "__main__":
    main()
