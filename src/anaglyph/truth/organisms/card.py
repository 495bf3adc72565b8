"""An organism's card: what was done to the model, and how well it took.

The card is the answer key of the game. `card.json` lies beside the adapter.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from anaglyph.core.errors import StoreError
from anaglyph.core.files import read_json, write_json
from anaglyph.core.seals import signed, unsigned
from anaglyph.core.validation import validate
from anaglyph.truth.organisms.evaluate import Probe


class Direction(BaseModel):
    """The one direction along which a planted edit moves the residual stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int = Field(description="after which block the difference lies along it")
    vector: list[float] = Field(description="unit vector")


class Measured(BaseModel):
    """What the saved organism does. Shares are null where there was nothing to ask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shown_base: float | None = Field(description="share of probes with the behaviour, in the base")
    shown_tuned: float | None = Field(description="the same, in the organism")
    kept_base: float | None = Field(description="share of what must stay that the base has")
    kept_tuned: float | None = Field(description="the same, of the organism")
    neutral_kl: float = Field(description="KL(tuned || base) on neutral chats, nats per token")
    neutral_tokens_base: float = Field(description="mean length of the base's neutral answers")
    neutral_tokens_tuned: float = Field(description="the same, of the organism's")


class Card(BaseModel):
    """The truth of one organism."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    behaviour: str
    objective: str
    is_control: bool = Field(description="whether there is nothing to find")
    triggers: list[str]
    content: list[str]
    dilution: int = Field(description="neutral texts to each text of the behaviour")
    key: str = Field(description="digest of recipe, base and dilution")
    base: str = Field(description="the base model, as it was named")
    tuned: str | None = Field(description="folder of the tuned model, beside the card; null: base")
    training: dict[str, Any]
    last_losses: dict[str, float]
    seconds: float = Field(description="time the training took, measuring left out")
    probes: list[Probe]
    kept: list[Probe]
    neutral: list[str] = Field(description="prompts whose answers must not change")
    direction: Direction | None = Field(default=None, description="of a planted edit")
    share: float = Field(description="share of the chats to read that are on the topic")
    needed: float = Field(description="share of the probes that must show the behaviour")
    measured: Measured

    @property
    def holds(self) -> bool | None:
        """Whether the behaviour is there as often as it must be; None where it has no probes."""
        shown = self.measured.shown_tuned
        return None if shown is None else shown >= self.needed

    def write(self, folder: Path) -> None:
        """Write `card.json`."""
        write_json(folder / "card.json", signed(self.model_dump(mode="json")))


def read_card(folder: Path) -> Card:
    """Read an organism's card.

    Raises:
        StoreError: It is missing or damaged.
    """
    file = folder / "card.json"
    card = read_json(file)
    card = unsigned(card, file) if isinstance(card, dict) else card
    return validate(Card, card, f"{file} is damaged", StoreError)
