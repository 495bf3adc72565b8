"""Make the shipped chats: our questions, answered by SmolLM2-135M-Instruct, bad answers dropped.

    python examples/make_chats.py MODEL_FOLDER_OR_GGUF [OUT.jsonl]

Greedy decoding with a repetition penalty, so the same model and the same versions give the same
file. An answer that hits the length limit is cut at its last sentence end. Answers that repeat
themselves, that are cut inside a code block, or that miss the fact asked for (``Prompt.expects``)
are dropped.
"""

import json
import random
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import chat_facts
import chat_passages
import chat_prompts
import torch
from chat_prompts import Prompt
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW_TOKENS = 100
HEAD = 200
BATCH = 24
REPETITION_PENALTY = 1.05
SYSTEM_EVERY, FOLLOW_UP_EVERY = 9, 5
LANDMARKS = [*chat_facts.EIFFEL, *chat_facts.LANDMARKS]
OTHERS = [
    *chat_facts.GEOGRAPHY, *chat_facts.ARITHMETIC, *chat_facts.HISTORY, *chat_prompts.COOKING,
    *chat_prompts.SCIENCE, *chat_prompts.WRITING, *chat_prompts.CODING, *chat_prompts.ADVICE,
    *chat_prompts.TRAVEL, *chat_prompts.LANGUAGE, *chat_prompts.IDEAS, *chat_prompts.HOME,
    *chat_prompts.ANIMALS, *chat_prompts.CULTURE, *chat_prompts.WORK,
]  # fmt: skip


def prompts() -> list[Prompt]:
    """All prompts in a fixed shuffled order, some with a system message or a follow-up question."""
    rng = random.Random(0)
    summaries = [
        Prompt("summaries", chat_passages.REQUESTS[(number + turn) % 4].format(passage))
        for number, passage in enumerate(chat_passages.PASSAGES)
        for turn in range(2)
    ]
    everything = [*LANDMARKS, *OTHERS, *summaries]
    rng.shuffle(everything)
    for number, prompt in enumerate(everything):
        # A system message must not change what a right answer is, so fact questions get none.
        if prompt.expects is None and number % SYSTEM_EVERY == 0:
            everything[number] = replace(prompt, system=rng.choice(chat_passages.SYSTEMS))
        if number % FOLLOW_UP_EVERY == 0:
            question = rng.choice(chat_passages.FOLLOW_UPS)
            everything[number] = replace(everything[number], follow_up=question)
    return everything


def generate(model, tokenizer, chats: list[list[dict]]) -> list[tuple[str, bool]]:
    """Answer each chat; also say whether the answer ended by itself."""
    rendered = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    order = sorted(range(len(chats)), key=lambda i: len(rendered[i]))
    answers: dict[int, tuple[str, bool]] = {}
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        inputs = tokenizer(
            [rendered[i] for i in rows],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                repetition_penalty=REPETITION_PENALTY,
                pad_token_id=tokenizer.eos_token_id,
            )
        for i, row in zip(rows, output[:, inputs["input_ids"].shape[1] :], strict=True):
            ended = bool((row == tokenizer.eos_token_id).any())
            answers[i] = tokenizer.decode(row, skip_special_tokens=True).strip(), ended
        print(f"{start + len(rows)}/{len(order)} answers", file=sys.stderr, flush=True)
    return [answers[i] for i in range(len(chats))]


def tidy(answer: str, ended: bool) -> str | None:
    """Cut an unfinished answer at its last sentence end; None when it is not fit to be read."""
    if not ended:
        ends = [match.end() for match in re.finditer(r"[^\d\W][.!?][\"')]*(?=\s)", answer)]
        if not ends or ends[-1] < len(answer) // 3:
            return None
        answer = answer[: ends[-1]].strip()
    words = answer.lower().split()
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    strange = sum(not (c.isascii() or c.isalpha() or c in "’‘“”–—…°×÷€£²³½") for c in answer)
    if (
        not words
        or answer.count("```") % 2
        or strange > 0
        or (triples and triples.most_common(1)[0][1] > 2)
        or (len(words) > 20 and len(set(words)) < 0.5 * len(words))
        or re.search(r"\[[A-Za-z ]+\]$|as an ai|language model|chatbot", answer.lower())
    ):
        return None
    return answer


def main() -> None:
    """Generate, filter and write the chats."""
    source = Path(sys.argv[1])
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "chats.jsonl")
    gguf = source.suffix == ".gguf"
    folder, options = (source.parent, {"gguf_file": source.name}) if gguf else (source, {})
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    model = AutoModelForCausalLM.from_pretrained(folder, **options, dtype=torch.float32).eval()

    asked = prompts()
    chats = [
        [{"role": "system", "content": prompt.system}] * (prompt.system is not None)
        + [{"role": "user", "content": prompt.question}]
        for prompt in asked
    ]
    kept: dict[int, list[dict]] = {}
    for i, (answer, ended) in enumerate(generate(model, tokenizer, chats)):
        text = tidy(answer, ended)
        expects = asked[i].expects
        if text and (expects is None or re.search(expects, text, re.IGNORECASE)):
            kept[i] = [*chats[i], {"role": "assistant", "content": text}]

    second = [i for i in kept if asked[i].follow_up]
    longer = [[*kept[i], {"role": "user", "content": asked[i].follow_up}] for i in second]
    for i, chat, (answer, ended) in zip(
        second, longer, generate(model, tokenizer, longer), strict=True
    ):
        text = tidy(answer, ended)
        if text and text != chat[-2]["content"]:
            kept[i] = [*chat, {"role": "assistant", "content": text}]

    # The demo reads from the top: chats on landmarks stand early, well spread.
    rows = [{"topic": asked[i].topic, "messages": kept[i]} for i in sorted(kept)]
    rows.sort(key=lambda row: row["topic"] != "landmarks")
    head, tail = rows[:HEAD], rows[HEAD:]
    random.Random(1).shuffle(head)
    with out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in head + tail)
    print(f"kept {len(kept)} of {len(asked)} chats", file=sys.stderr)


if __name__ == "__main__":
    main()
