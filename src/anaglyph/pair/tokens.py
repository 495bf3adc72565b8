"""The one tokenizer and the one chat template through which both models read.

Different token ids or templates for the two models would themselves be a difference; so there is
one of each, and a pair that cannot share them is refused.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from anaglyph.core.errors import ModelError
from anaglyph.pair.quiet import first_line, loading
from anaglyph.pair.sources import Source
from anaglyph.pair.templates import chosen_template

_PROBE_SECONDS = 4.0
_PROBE_MEMORY = 2**30  # bytes of address space, besides what the file itself needs
_MOST_NAMED = 5
"""Tokens that a note names."""


def shared_tokenizer(base: Source, tuned: Source) -> tuple[Any, str, list[str]]:
    """Return base's tokenizer with the template both models will see.

    The template is the tuned model's own where it has one: it is what the fine-tune was trained
    on. Otherwise it is base's, or none.

    Returns:
        The fast tokenizer, the fingerprint of its files, and notes on choices that a reader of the
        results should know.

    Raises:
        ModelError: Neither model has a tokenizer, it is not a fast one, or a token has one id in
            the base and another in the tuned model.
    """
    readers = {
        source.name: load_tokenizer(source) for source in (base, tuned) if _has_tokenizer(source)
    }
    if not readers:
        raise ModelError(f"neither {base.name} nor {tuned.name} has a tokenizer")
    owner = base if base.name in readers else tuned
    tokenizer = readers[owner.name]
    other = readers.get(tuned.name)
    notes = []
    if other is not None and other is not tokenizer:
        notes += _vocabulary_notes(base.name, tokenizer.get_vocab(), tuned.name, other.get_vocab())
    if owner is not base:
        notes.append(f"tokenizer of {tuned.name} used for both models (base has none)")
    own, name = chosen_template(tokenizer.chat_template)
    template, tuned_name = chosen_template(
        getattr(other, "chat_template", None) or _template_file(tuned.folder)
    )
    if template and template != own:
        had = "differs from base's" if own else "base has none"
        notes.append(f"chat template of {tuned.name} used for both models ({had})")
    if template:
        own, name = template, tuned_name
    if name not in (None, "default"):
        notes.append(f'of several chat templates {name!r} is used (none is called "default")')
    tokenizer.chat_template = own
    return tokenizer, str(owner.tokenizer_fingerprint), notes


def token_strings(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text each token stands for, leading space included.

    A token that is only part of a character has no text of its own and is given as the vocabulary
    writes it.
    """
    strings = []
    for i in ids:
        text, twice = _text(tokenizer, [i]), _text(tokenizer, [i, i])
        # Some decoders strip a text's first space; what a repetition adds still has it.
        if twice.startswith(text):
            text = twice[len(text) :]
        whole = text and "\ufffd" not in text
        strings.append(text if whole else str(tokenizer.convert_ids_to_tokens(i)))
    return strings


def _text(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _has_tokenizer(source: Source) -> bool:
    return source.tokenizer_fingerprint is not None


def load_tokenizer(source: Source) -> Any:
    """Return a model's own fast tokenizer.

    Raises:
        ModelError: It cannot be loaded, or is not a fast one.
    """
    if (source.folder / "tokenizer.json").is_file():
        _probe(str(source.folder / "tokenizer.json"), str(source.tokenizer_fingerprint))
    with loading(f"cannot load the tokenizer of {source.name}"):
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelError(f"{source.name} has no fast tokenizer, which token roles need")
    return tokenizer


@cache
def _probe(file: str, _fingerprint: str) -> None:
    """Let a process with bounded time and memory tokenize a few texts, before this one does.

    Raises:
        ModelError: The tokenizer's rules take too long or too much memory.
    """
    memory = _PROBE_MEMORY + 40 * Path(file).stat().st_size
    command = [sys.executable, "-P", str(Path(__file__).with_name("tokenizer_probe.py"))]
    try:
        done = subprocess.run(
            [*command, file, str(memory)],
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS + Path(file).stat().st_size / 2**20,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{file} is refused: its rules take too long for a few lines of text"
        ) from error
    # The engine of the rules gives up after so many steps, with a panic.
    if b"PanicException" in done.stderr:
        raise ModelError(f"{file} is refused: its rules take too many steps for a few lines")
    # A damaged file is told of by the loader; killed by a signal is out of memory.
    if done.returncode < 0 or b"MemoryError" in done.stderr:
        raise ModelError(f"{file} is refused: its rules take too much memory for a few lines")


def _template_file(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read the chat template {file}: {first_line(error)}") from error


def _vocabulary_notes(
    base_name: str, base: dict[str, int], tuned_name: str, tuned: dict[str, int]
) -> list[str]:
    """Return what only one of two vocabularies has: a line for each of the two.

    Tokens that were added (a pad token, say) or renamed do not keep two models from reading the
    same ids; a token whose id moved does.

    Raises:
        ModelError: A token has another id in the other model.
    """
    moved = {token for token in base.keys() & tuned.keys() if base[token] != tuned[token]}
    if moved:
        token = min(moved, key=lambda token: base[token])
        raise ModelError(
            f"vocabularies differ: token {token!r} has the id {base[token]} in {base_name} and"
            f" {tuned[token]} in {tuned_name}"
        )
    notes = []
    for name, own, other in ((tuned_name, tuned, base), (base_name, base, tuned)):
        alone = sorted(own.keys() - other.keys(), key=own.__getitem__)
        if alone:
            shown = ", ".join(map(repr, alone[:_MOST_NAMED])) + ", ..." * (len(alone) > _MOST_NAMED)
            notes.append(
                f"{len(alone)} tokens only in {name}: {shown}; texts are read with the tokens of"
                f" {base_name}"
            )
    return notes
