"""What the name of a weight says, whatever a wrapper puts before it."""

import re
from collections.abc import Iterable

# What wrappers put before the names of the text model inside them.
_WRAPPERS = {"model", "language_model", "text_model", "transformer", "gpt_neox", "backbone"}
_NO_TEXT = re.compile(
    r"(^|\.)(vision|visual|audio|image|speech|multi_modal|mm_projector|embed_vision|embed_audio)"
    r"[^.]*(\.|$)"
)


def is_text(name: str) -> bool:
    """Say whether a weight belongs to the text model, not to a tower for images or sound."""
    return _NO_TEXT.search(name) is None


def plain_name(name: str) -> str:
    """Return a weight's name without what wrappers put before it."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)


def by_plain_name(names: Iterable[str]) -> dict[str, str]:
    """Return names by their plain names; by themselves where two plain ones are the same."""
    whole = list(names)
    plain = {plain_name(name): name for name in whole}
    return plain if len(plain) == len(whole) else {name: name for name in whole}
