"""What an audit may spend, and what it has spent."""

from pydantic import BaseModel, ConfigDict, Field

from anaglyph.core.errors import InputError


class Limits(BaseModel):
    """The most that an audit may spend; whatever runs out first brings on the last call.

    That call, in which the hypothesis is written, comes on top.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: int = Field(default=30, ge=1, description="answers of the investigating model")
    tokens: int = Field(default=300_000, ge=1, description="tokens, as the endpoint counts them")
    calls: int = Field(default=60, ge=0, description="tool calls")
    generated: int = Field(default=20_000, ge=0, description="tokens that base and tuned may write")


class Spent(BaseModel):
    """What an audit has used of its limits."""

    turns: int = 0
    tokens: int = 0
    calls: int = 0
    generated: int = 0


class Meter:
    """Counts what is spent against the limits."""

    def __init__(self, limits: Limits, spent: Spent | None = None) -> None:
        self.limits = limits
        self.spent = spent or Spent()
        self._refused = False

    def hit(self) -> str | None:
        """Return the name of a limit that is reached, if any."""
        for name in ("turns", "tokens", "calls"):
            if getattr(self.spent, name) >= getattr(self.limits, name):
                return name
        return "generated" if self._refused else None

    def grant(self, replies: int, new_tokens: int) -> int:
        """Return how long each of some replies may be: as wished, or what is left.

        Raises:
            InputError: Nothing is left.
        """
        left = self.limits.generated - self.spent.generated
        if left < replies:
            self._refused = True
            raise InputError(f"{left} generated tokens are left: too few for {replies} replies")
        return min(new_tokens, left // replies)
