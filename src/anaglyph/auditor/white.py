"""The tools that look inside: a run's findings, its latents, the lens, steering."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import polars as pl
import torch
from pydantic import Field

from anaglyph.auditor.limits import Meter
from anaglyph.auditor.tools import Arguments, NewTokens, Prompt, Seed, Tool
from anaglyph.behaviour.directions import read_direction
from anaglyph.behaviour.predictions import head_logits
from anaglyph.causal import steer
from anaglyph.core.errors import InputError
from anaglyph.core.files import read_parquet
from anaglyph.core.schemas import Finding
from anaglyph.core.settings import Settings, SteerSettings
from anaglyph.pair import Side
from anaglyph.run import Run
from anaglyph.run.stages import latent_examples
from anaglyph.subject import Subject

LENS = "direct/lens"
"""The stage that keeps the tokens of the activation difference lens."""
_SUMMARY = (
    *("kind", "effect", "low", "high", "q_value", "frequency_base", "frequency_tuned"),
    *("kl_recovered", "layers"),
)
_COLUMNS = (
    *("class", "frequency", "mean_activation", "max_activation", "norm_base", "norm_tuned"),
    *("delta_norm", "cosine", "nu_error", "nu_recon", "template_share"),
)
"""Of the latent table; some methods lack some."""
Strength = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
_PROMOTED = 12
_STRONGEST = 5


class Nothing(Arguments):
    """No arguments."""


class ShowFinding(Arguments):
    """A finding."""

    finding: int = Field(ge=1, description="Its number in list_findings.")
    examples: int = Field(default=4, ge=0, le=8, description="Texts where it is strongest.")


class ShowLatent(Arguments):
    """A latent of a dictionary."""

    dictionary: str = Field(description="Name of the dictionary, such as diff-sae.")
    latent: int = Field(ge=0, description="Its index.")
    examples: int = Field(default=4, ge=1, le=8, description="Texts where it is strongest.")


class Lens(Arguments):
    """Which of the lens's readings."""

    position: int | None = Field(
        default=None, ge=0, description="Of the token in a text; null: all."
    )


class Steer(Arguments):
    """A direction, and what is written along it."""

    finding: int = Field(ge=1, description="Number of the finding whose direction is added.")
    prompts: list[Prompt] = Field(min_length=1, max_length=4, description="User turns.")
    strengths: list[Strength] = Field(
        default=[1.0],
        min_length=1,
        max_length=4,
        description="1 adds what the model that has it more strongly has of it on average where it "
        "fires, -1 takes as much away.",
    )
    into: Literal["base", "tuned"] = Field(default="base", description="The model that is steered.")
    new_tokens: NewTokens = 60
    seed: Seed = 0


def white_tools(run: Run, meter: Meter) -> list[Tool]:
    """Return the tools of white mode that black mode lacks.

    Raises:
        InputError: The run has no findings yet.
    """
    inside = _Inside(run, meter)
    tools = [
        Tool(
            "list_findings",
            "List what an analysis of the activations found to differ, with sizes and tests.",
            Nothing,
            lambda _: inside.findings(),
        ),
        Tool(
            "show_finding",
            "Show one finding: its evidence, texts where it is strongest, and the tokens that its "
            "direction promotes (logit lens).",
            ShowFinding,
            inside.finding,
        ),
        Tool(
            "steer",
            "Add a finding's direction to a model while it writes; base, tuned and steered replies "
            "side by side.",
            Steer,
            inside.steer,
        ),
    ]
    if run.trained:
        tools.append(
            Tool(
                "show_latent",
                f"Show a latent of a dictionary ({', '.join(run.trained)}): its numbers, and "
                "texts where it is strongest.",
                ShowLatent,
                inside.latent,
            )
        )
    if LENS in run.folder.state.stages:
        tools.append(
            Tool(
                "lens_tokens",
                "Tokens that the mean difference at the first positions of unrelated texts reads "
                'as; what the pair "null" shows too is no finding.',
                Lens,
                inside.lens,
            )
        )
    return tools


class _Inside:
    """What the tools of one audit look at."""

    def __init__(self, run: Run, meter: Meter) -> None:
        self.run = run
        self.meter = meter
        self.verdict = run.verdict

    def findings(self) -> dict[str, Any]:
        verdict, state = self.verdict, self.run.folder.state
        limit = verdict.detection_limit
        return {
            "verdict": verdict.verdict,
            "reason": verdict.reason,
            "layer": f"{state.layer} of {state.n_layers}",
            "meaning_of_effect": Finding.model_fields["effect"].description,
            "detection_limit": None if limit is None else limit.model_dump(),
            "findings": [
                {"finding": number} | self._summary(finding)
                for number, finding in enumerate(verdict.findings, 1)
            ],
        }

    def finding(self, asked: ShowFinding) -> dict[str, Any]:
        finding = self._numbered(asked.finding)
        tuned = finding.direction_tuned is not None
        side: Side = "tuned" if tuned else "base"
        return {
            "finding": asked.finding,
            **self._summary(finding),
            "evidence": finding.evidence,
            f"promoted_in_{side}": self._promoted(finding, side),
            "examples": _windows(finding.examples[: asked.examples]),
        }

    def latent(self, asked: ShowLatent) -> dict[str, Any]:
        run, name = self.run, asked.dictionary
        run.names([name])
        if f"score/{name}" not in run.folder.state.stages:
            raise InputError(f"{name} has no latent table in this run")
        table = run.table(name)
        if asked.latent >= table.height:
            raise InputError(f"latent {asked.latent} is out of range: there are {table.height}")
        row = table.row(asked.latent, named=True)
        (shown,) = latent_examples(
            run.subject, run.dictionary(name), [asked.latent], n=asked.examples
        )
        return {
            "dictionary": name,
            "latent": asked.latent,
            **{column: row[column] for column in _COLUMNS if column in row},
            "examples": _windows(shown["examples"]),
        }

    def lens(self, asked: Lens) -> dict[str, Any]:
        self.run.folder.check_stage(LENS)
        table = read_parquet(self.run.path / "direct" / "lens-tokens.parquet")
        if asked.position is not None:
            table = table.filter(pl.col("position") == asked.position)
        if table.is_empty():
            raise InputError(f"the lens has no position {asked.position}")
        reading = ["pair", "position", "method", "strength"]
        rows = table.group_by(reading, maintain_order=True).agg(pl.col("token"))
        return {"readings": rows.to_dicts()}

    def steer(self, asked: Steer) -> dict[str, Any]:
        subject = self.run.subject
        name = f"finding:{asked.finding}"
        direction = read_direction(name, subject.layer, self.run.held, into=asked.into)
        replies = len(asked.prompts) * (2 + len(asked.strengths))
        longest = self.meter.grant(replies, asked.new_tokens)
        settings = SteerSettings(
            strength=tuple(asked.strengths), into=asked.into, new_tokens=longest
        )
        seeded = Subject.of(
            pair=subject.pair, layer=subject.layer, settings=Settings(seed=asked.seed)
        )
        table = steer(seeded, asked.prompts, direction, settings)
        self.meter.spent.generated += int(table["tokens"].sum())
        answers = []
        for start in range(0, table.height, 2 + len(asked.strengths)):
            base, tuned, *steered = table.slice(start, 2 + len(asked.strengths)).to_dicts()
            answers.append(
                {
                    "prompt": base["prompt"],
                    "base": base["reply"],
                    "tuned": tuned["reply"],
                    f"{asked.into}_steered": [
                        {"strength": row["strength"], "reply": row["reply"]} for row in steered
                    ],
                }
            )
        return {"longest_reply": longest, "replies": answers}

    def _numbered(self, number: int) -> Finding:
        findings = self.verdict.findings
        if number > len(findings):
            raise InputError(f"there is no finding {number}: the run has {len(findings)}")
        return findings[number - 1]

    def _summary(self, finding: Finding) -> dict[str, Any]:
        shown_by = [f"{name}/{latent}" for name, latent in finding.latents]
        return {name: getattr(finding, name) for name in _SUMMARY} | {"latents": shown_by}

    def _promoted(self, finding: Finding, side: Side) -> list[str]:
        direction = finding.direction_tuned if side == "tuned" else finding.direction_base
        vector = torch.tensor(direction, dtype=torch.float32)
        logits = head_logits(self.run.subject.pair, side, vector[None])[0].float()
        ids = logits.topk(min(_PROMOTED, len(logits))).indices.tolist()
        return self.run.subject.pair.token_strings(ids)


def _windows(examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return examples as text, the peak in «», with the tokens at which they are strongest."""
    shown = []
    for example in examples:
        tokens, peak = list(example["tokens"]), example["position"]
        strips = zip(tokens, example["code"], example["base"], example["tuned"], strict=True)
        rows = [
            {"token": token, "strength": code, "base": base, "tuned": tuned}
            for token, code, base, tuned in strips
        ]
        strongest = sorted(rows, key=lambda row: -(row["strength"] or 0.0))[:_STRONGEST]
        tokens[peak] = f"«{tokens[peak]}»"
        shown.append({"text": "".join(tokens), "strongest": strongest})
    return shown
