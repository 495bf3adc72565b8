"""Tiny fast tokenizers with the chat templates of the families that are met most."""

from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim"
    " + '<|eot_id|>' }}{% endfor %}"
)
# Llama 2: the system message stands inside the first user turn.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}"
    "{% endif %}{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + ('<<SYS>>\n' + system + '\n<</SYS>>\n\n' if loop.first and system "
    "else '') + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# Mistral: the system message stands in the last user turn, so the order is not the chat's.
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}"
    "{% endif %}{{ bos_token }}{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' }}{% if system and loop.index0 >= rest | length - 2 %}"
    "{{ system + '\n\n' }}{% endif %}{{ m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)

SPECIAL = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    "llama3": (
        "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
        "<|eot_id|>",
    ),
    "llama2": ("<s>", "</s>"),
    "mistral": ("<s>", "</s>"),
    "plain": ("<bos>", "<eos>"),
}  # fmt: skip
TEMPLATES = {
    "chatml": CHATML, "gemma": GEMMA, "llama3": LLAMA3, "llama2": LLAMA2, "mistral": MISTRAL,
    "plain": None,
}  # fmt: skip

TokenizerMaker = Callable[..., PreTrainedTokenizerFast]


def build(kind: str, *, adds_bos: bool = False, trims: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 300 tokens; the first two special tokens are bos and eos."""
    special = SPECIAL[kind]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["the cat sat on the mat and the user said hello there\n\n"], trainer)
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{special[0]} $A", special_tokens=[(special[0], core.token_to_id(special[0]))]
        )
    else:
        core.post_processor = processors.ByteLevel(trim_offsets=trims)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=special[0],
        eos_token=special[1],
        chat_template=TEMPLATES[kind],
    )


def decode(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> str:
    """Text of a sequence of tokens."""
    text = tokenizer.decode(ids.tolist())
    assert isinstance(text, str)
    return text


@pytest.fixture(scope="session")
def tokenizer_of() -> TokenizerMaker:
    """Return a maker of tiny tokenizers, each built once."""
    made: dict[tuple, PreTrainedTokenizerFast] = {}

    def get(kind: str, **options: bool) -> PreTrainedTokenizerFast:
        key = (kind, *sorted(options.items()))
        if key not in made:
            made[key] = build(kind, **options)
        return made[key]

    return get
