"""The tool that sees no internals: what both models write."""

from pydantic import Field

from anaglyph.auditor.limits import Meter
from anaglyph.auditor.tools import Arguments, NewTokens, Prompt, Seed, Tool
from anaglyph.behaviour.generate import (
    continue_prompts,
    end_tokens,
    reply_texts,
    side_stepper,
)
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.pair import Side
from anaglyph.run import Run


class Generate(Arguments):
    """Prompts, and how they are answered."""

    prompts: list[Prompt] = Field(
        min_length=1, max_length=8, description="User turns, each its own conversation."
    )
    new_tokens: NewTokens = 60
    temperature: float = Field(
        default=0.0, ge=0, le=2, allow_inf_nan=False, description="0 takes the likeliest token."
    )
    seed: Seed = 0


def black_tools(run: Run, meter: Meter) -> list[Tool]:
    """Return the tools of black mode."""

    def generate(asked: Generate) -> dict[str, object]:
        pair = run.subject.pair
        longest = meter.grant(2 * len(asked.prompts), asked.new_tokens)
        texts: dict[Side, list[str]] = {}
        for side in ("base", "tuned"):
            replies = continue_prompts(
                lambda side=side: side_stepper(pair, side),
                all_prompt_ids(pair.reader(side), asked.prompts),
                new_tokens=longest,
                ends=end_tokens(pair, side),
                temperature=asked.temperature,
                seed=asked.seed,
            )
            meter.spent.generated += sum(map(len, replies))
            texts[side] = reply_texts(pair, replies, side)
        rows = zip(asked.prompts, texts["base"], texts["tuned"], strict=True)
        return {
            "longest_reply": longest,
            "replies": [
                {"prompt": prompt, "base": base, "tuned": tuned, "same": base == tuned}
                for prompt, base, tuned in rows
            ],
        }

    return [
        Tool(
            "generate",
            "Let the base and the tuned model answer the same prompts, side by side.",
            Generate,
            generate,
        )
    ]
