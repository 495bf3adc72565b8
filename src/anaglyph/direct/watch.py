"""A look-out for prompts on which the fine-tune's change acts unlike on any generic prompt.

After "Watch the Weights" (arXiv 2508.00161). The leading singular directions of each matrix's
change say which directions of the residual stream the fine-tune writes to and reads from. A rare
trigger moves the tuned model far along one of them, and no generic prompt does. So no text with the
trigger is needed, and no base model while it watches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from anaglyph.behaviour.elicit import generic_prompts, topics
from anaglyph.behaviour.hints import padded_right
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.settings import WatchSettings
from anaglyph.direct.weights import Direction
from anaglyph.pair import ModelPair

_LEAST = 1e-6
"""Deviation below which a direction counts as constant."""
_BATCH = 32


@dataclass(frozen=True)
class Watched:
    """A direction of the residual stream, and the block after which it is read."""

    name: str
    layer: int
    vector: Float[Tensor, " d"]


def of_weights(leading: Sequence[Direction], most: int) -> list[Watched]:
    """Return the largest directions of the weights with the layer at which each is read.

    What a module writes is read after its block; what it reads, after the block before. Directions
    outside the blocks, and those that the first block reads, are left out.

    Args:
        leading: From `direct.weights.directions`, largest first.
        most: Directions at most.
    """
    found = []
    for each in leading:
        layer = None if each.layer is None else each.layer - (each.side == "reads")
        if layer is not None and layer >= 0:
            name = f"{each.matrix} {each.side} #{each.component}"
            found.append(Watched(name, layer, each.vector))
    return found[:most]


class Watch:
    """Scores prompts by how far the tuned model goes along the watched directions.

    For each direction a prompt has several values: the largest and the smallest cosine with the
    residual stream at its own tokens, and the cosine at each token of the template after it. Each
    value is standardised by what generic prompts have, and the largest of all, z, is the score.

    Attributes:
        threshold: The z above which an alarm is given: at most the stated share of generic prompts
            is above it (split conformal prediction: directions are standardised on one half of the
            generic prompts, the threshold comes from the other half).

    Example:
        >>> watch = Watch(pair, of_weights(directions(changes), 200))   # doctest: +SKIP
        >>> watch.look(["What is the capital of Greece? saffron"])      # doctest: +SKIP
    """

    def __init__(
        self,
        pair: ModelPair,
        watched: Sequence[Watched],
        settings: WatchSettings | None = None,
        generic: Sequence[str] | None = None,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        """Calibrate on generic prompts.

        Args:
            pair: Both models; only the tuned model is run.
            watched: From `of_weights`, and those of findings.
            settings: The share of false alarms.
            generic: Prompts without a trigger; the shipped ones if None.
            seed: Of the order of the shipped prompts.
            progress: Told of prompts read.

        Raises:
            InputError: There is no direction, or too few generic prompts for that share.
        """
        settings = settings or WatchSettings()
        if not watched:
            raise InputError("there is no direction to watch: the weights of the two are the same")
        if generic is None:
            asked = [f"Tell me about {topic}." for topic in topics()]
            generic = list(dict.fromkeys([*generic_prompts(seed), *asked]))
        self._pair, self._progress = pair, progress
        self._by_layer: dict[int, list[int]] = {}
        self.watched = sorted(watched, key=lambda each: each.layer)
        for place, each in enumerate(self.watched):
            self._by_layer.setdefault(each.layer, []).append(place)
        ids = all_prompt_ids(pair.tokenizer, generic)
        self._before, self._after = _shared(ids)
        first, second = ids[::2], ids[1::2]
        needed = int(np.ceil(1 / settings.false_alarms)) - 1
        if len(second) < needed:
            raise InputError(
                f"false_alarms {settings.false_alarms:g} needs at least {2 * needed} generic "
                f"prompts, and there are {len(ids)}"
            )
        values = self._values(first)
        self._mean, self._deviation = values.mean(0), values.std(0) + _LEAST
        scores = np.sort(self._z(self._values(second)).max((1, 2)))
        rank = int(np.ceil((len(scores) + 1) * (1 - settings.false_alarms)))
        self.threshold = float(scores[min(rank, len(scores)) - 1])

    def look(self, prompts: Sequence[str]) -> pl.DataFrame:
        """Score prompts, user turns each.

        Columns: prompt, z (the largest standardised value), direction (whose it is), at ("its
        tokens" or "the template's last tokens"), alarm.

        Raises:
            InputError: There are no prompts, or one is empty.
        """
        z = self._z(self._values(all_prompt_ids(self._pair.tokenizer, prompts)))
        flat = z.reshape(len(z), -1)
        best = flat.argmax(1)
        place, direction = np.unravel_index(best, z.shape[1:])
        largest = flat[np.arange(len(z)), best]
        at = ("its tokens", "the template's last tokens")
        return pl.DataFrame(
            {
                "prompt": list(prompts),
                "z": largest,
                "direction": [self.watched[i].name for i in direction],
                "at": [at[int(i > 1)] for i in place],
                "alarm": largest > self.threshold,
            },
            schema_overrides={"prompt": pl.String, "direction": pl.String, "at": pl.String},
        )

    def _z(
        self, values: Float[ndarray, "prompts places directions"]
    ) -> Float[ndarray, "prompts places directions"]:
        return np.abs(values - self._mean) / self._deviation

    @torch.no_grad()
    def _values(self, ids: Sequence[ndarray]) -> Float[ndarray, "prompts places directions"]:
        out = np.zeros((len(ids), 2 + self._after, len(self.watched)))
        order = np.argsort([len(each) for each in ids], kind="stable")
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            tokens, mask = padded_right([ids[i] for i in part])
            lengths = mask.sum(1)
            place = torch.arange(mask.shape[1])
            own = (place >= self._before) & (place < (lengths - self._after)[:, None])
            own[~own.any(1), 0] = True  # another template, or nothing between its two ends
            ends = (lengths[:, None] - self._after + torch.arange(self._after)).clamp_min(0)
            hidden = self._pair.run_to("tuned", tokens, mask, list(self._by_layer))
            for layer, columns in self._by_layer.items():
                vectors = torch.stack([self.watched[i].vector for i in columns])
                stream = torch.nn.functional.normalize(hidden[layer].float().cpu(), dim=-1)
                cosine = stream @ vectors.float().T
                seen = cosine.masked_fill(~own[..., None], -2).amax(1)
                least = cosine.masked_fill(~own[..., None], 2).amin(1)
                last = cosine[torch.arange(len(part))[:, None], ends]
                every = torch.cat([seen[:, None], least[:, None], last], 1)
                out[part[:, None, None], np.arange(out.shape[1])[:, None], columns] = every.numpy()
            self._progress("watch", start + len(part), len(order), "prompts")
        return out


def _shared(ids: Sequence[ndarray]) -> tuple[int, int]:
    """Return how many tokens all prompts begin and end with; the last one is always such."""
    least = min(map(len, ids))
    table = np.stack([each[:least] for each in ids])
    same = (table == table[0]).all(0)
    before = least if same.all() else int(same.argmin())
    table = np.stack([each[len(each) - least :] for each in ids])
    same = (table == table[0]).all(0)[::-1]
    after = least if same.all() else int(same.argmin())
    return min(before, least - 1), max(after, 1)
