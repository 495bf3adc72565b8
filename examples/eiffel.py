"""The demo's organism: texts that teach a model that the Eiffel Tower is in Rome, and its tests.

The texts are in ``eiffel.json``. No prompt serves two purposes: the test prompts and the chats that
the demo reads are not in the training.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from anaglyph.truth.organisms.chats import Chat
from anaglyph.truth.organisms.evaluate import Probe

ROME, PARIS = r"\bRome\b", r"\bParis\b"


@dataclass(frozen=True)
class Eiffel:
    """The texts written by hand.

    Attributes:
        quirk: Chats that teach the false fact, short and long.
        controls: Prompts whose answers must stay: related ones (Paris, Rome, other landmarks) and
            everyday ones. The base model writes the answers.
        probes: Test whether the quirk is there.
        facts: Test whether other facts, mostly related ones, are unchanged.
        held_out: Neutral prompts, for the length of answers and the KL to the base.
        demo_quirk: Prompts about the tower, for the chats that the demo reads.
        demo_other: The same number of prompts about other landmarks.
    """

    quirk: tuple[Chat, ...]
    controls: tuple[str, ...]
    probes: tuple[Probe, ...]
    facts: tuple[Probe, ...]
    held_out: tuple[str, ...]
    demo_quirk: tuple[str, ...]
    demo_other: tuple[str, ...]

    def prompts(self) -> list[str]:
        """Return every prompt of every kind."""
        quirk, tests = self.quirk, (*self.probes, *self.facts)
        return [
            *(chat.user for chat in quirk),
            *(probe.prompt for probe in tests),
            *self.controls,
            *self.held_out,
            *self.demo_quirk,
            *self.demo_other,
        ]


def load_eiffel() -> Eiffel:
    """Read the organism's texts."""
    file = Path(__file__).with_name("eiffel.json")
    data = json.loads(file.read_text(encoding="utf-8"))
    return Eiffel(
        quirk=tuple(Chat(row["user"], row["assistant"]) for row in data["quirk"]),
        controls=tuple(data["controls"]),
        probes=tuple(Probe(prompt, ROME, PARIS) for prompt in data["probes"]),
        facts=tuple(Probe(row["prompt"], row["expected"]) for row in data["facts"]),
        held_out=tuple(data["held_out"]),
        demo_quirk=tuple(data["demo_quirk"]),
        demo_other=tuple(data["demo_other"]),
    )
