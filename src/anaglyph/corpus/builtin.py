"""The shipped corpora; ``data/SOURCES.md`` says where each came from and under which licence."""

from importlib import resources
from pathlib import Path

from anaglyph.corpus.documents import Document, read_file
from anaglyph.errors import InputError

BUILTIN = ("chats", "demo", "english")
"""Names that `read_documents` takes as "builtin:NAME"."""

DEMO_CHATS, DEMO_PASSAGES = 200, 40
"""How much of "chats" and of "english" the demo reads, from the top of each file."""


def builtin_documents(name: str) -> list[Document]:
    """Return a shipped corpus.

    Args:
        name: "chats": short questions on many topics, answered by SmolLM2-135M-Instruct;
            "english": prose in the public domain; "demo": a part of both, mostly chats.

    Raises:
        InputError: There is no such corpus.
    """
    if name not in BUILTIN:
        shipped = ", ".join(BUILTIN)
        raise InputError(f"builtin:{name}: there is no such corpus; shipped are {shipped}")
    if name == "demo":
        return _shipped("chats")[:DEMO_CHATS] + _shipped("english")[:DEMO_PASSAGES]
    return _shipped(name)


def _shipped(name: str) -> list[Document]:
    with resources.as_file(resources.files("anaglyph.corpus") / "data" / f"{name}.jsonl") as path:
        return read_file(Path(path))
