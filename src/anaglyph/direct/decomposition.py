"""The weight difference as rank-one parts, each with the KL that it accounts for.

docs/maths.md, section 7. The parts are the leading sigma u v^T of the matrices inside the blocks. A
part is removed from the tuned model by a hook that takes sigma u (v . x) off its module's output,
so that full models and adapters are served alike and no weight is copied. Where f(R) is the KL(
p_tuned || p_tuned without R) of a set R of parts, each part is scored three ways:

- alone: f of the part by itself;
- greedy: parts removed one after another, each time the one that raises f most; its gain;
- Shapley: the mean gain over random orders of removal (Shapley, 1953; sampled as by Castro et al.,
  2009, each order also backwards). The values add up to f of all parts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anaglyph.behaviour.kl import token_kl
from anaglyph.core.errors import InputError
from anaglyph.core.rng import rng
from anaglyph.core.settings import WeightsSettings
from anaglyph.corpus import TokenCorpus, padded_batches
from anaglyph.direct.weights import MatrixChange
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject


@dataclass(frozen=True)
class Part:
    """One rank-one part of the weight difference, sigma * left right^T.

    Attributes:
        matrix: The module whose weight it is of.
        layer: Its decoder block.
        component: Which of the matrix's singular directions, from 0.
        sigma: Singular value.
        share: sigma^2 as a share of the squared norm of the whole change.
        left: Unit vector on the output's side.
        right: Unit vector on the input's side.
    """

    matrix: str
    layer: int
    component: int
    sigma: float
    share: float
    left: Float[Tensor, " out"]
    right: Float[Tensor, " in"]


def largest_parts(changes: Sequence[MatrixChange], most: int) -> list[Part]:
    """Return the parts of the block matrices with the largest singular values.

    Raises:
        InputError: ``most`` is not positive.
    """
    if most < 1:
        raise InputError(f"{most} parts: at least 1 must be asked for")
    total = sum(change.norm**2 for change in changes)
    found = []
    for change in changes:
        if change.layer is None or change.singular is None:
            continue
        if change.left is None or change.right is None:
            continue
        for component, sigma in enumerate(change.singular.tolist()):
            if sigma <= 1e-6 * change.norm:
                break  # no more than rounding
            left, right = change.left[:, component], change.right[:, component]
            place = (change.name, change.layer, component)
            found.append(Part(*place, sigma, sigma**2 / total, left, right))
    return sorted(found, key=lambda part: -part.sigma)[:most]


class Removal:
    """Measures KL(p_tuned || p_tuned without some parts) on a fixed set of tokens.

    Attributes:
        parts: The parts that can be removed.
        gap: KL(p_tuned || p_base) on the same tokens, nats a token.
    """

    def __init__(
        self, pair: ModelPair, corpus: TokenCorpus, parts: Sequence[Part], token_budget: int = 512
    ) -> None:
        """Run both models over the corpus, all of it; the tuned model's logits are kept.

        Raises:
            InputError: A part's module is not in the model, or is no linear layer.
        """
        self.pair, self.parts = pair, list(parts)
        self._switch = torch.zeros(len(parts))
        everything = np.arange(corpus.n_sequences)
        self._batches = []
        total, tokens = 0.0, 0
        for _, ids, mask in padded_batches(corpus, everything, token_budget):
            real = mask.bool()
            logits = pair.logits("tuned", ids, mask)[real]
            total += float(token_kl(logits, pair.logits("base", ids, mask)[real]).sum())
            tokens += len(logits)
            self._batches.append((ids, mask, logits))
        self.gap, self._tokens = total / tokens, tokens

    @torch.no_grad()
    def kl(self, removed: Bool[np.ndarray, " parts"]) -> float:
        """Return the KL, nats a token, without the parts where ``removed`` is True."""
        total = 0.0
        with self.pair.side("tuned") as model, self._hooks(model, removed):
            for ids, mask, reference in self._batches:
                logits = model(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    use_cache=False,
                ).logits[mask.bool()]
                logits = self.pair.shared("tuned", logits)
                total += float(token_kl(reference, logits).sum())
        return total / self._tokens

    @contextmanager
    def _hooks(self, model: nn.Module, removed: Bool[np.ndarray, " parts"]) -> Iterator[None]:
        by_module: dict[str, list[Part]] = {}
        for part, is_removed in zip(self.parts, removed, strict=True):
            if is_removed:
                by_module.setdefault(part.matrix, []).append(part)
        modules = dict(model.named_modules())
        handles = []
        try:
            for name, parts in by_module.items():
                handles.append(_module(modules, name).register_forward_hook(_without(parts)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def decompose(
    subject: Subject,
    parts: Sequence[Part],
    settings: WeightsSettings | None = None,
    *,
    token_budget: int = 512,
) -> pl.DataFrame:
    """Score the parts by the KL that they account for; the largest Shapley value first.

    Columns: matrix, layer, component, sigma, share (of the squared norm of the whole change),
    kl_alone, shapley, shapley_se (standard error over the pairs of orders; null for one pair),
    shapley_share (of KL(p_tuned || p_base) on these tokens; null where the models predict alike),
    greedy_rank and kl_greedy (null for parts that the greedy search did not come to). KL is in
    nats a token.

    Args:
        subject: Both models, and text, all of which is read. The seed draws the orders.
        parts: From `largest_parts`.
        settings: How many random orders, each also walked backwards, and how many parts the greedy
            search removes.
        token_budget: Tokens in a batch.

    Raises:
        InputError: There are no parts, or a part is not of this pair.
    """
    if not parts:
        raise InputError("there are no parts to score: the weights do not differ in any block")
    settings = settings or WeightsSettings()
    removal, count = Removal(subject.pair, subject.corpus, parts, token_budget), len(parts)
    steps, orders = min(settings.greedy, count), settings.orders
    total = count + sum(count - step for step in range(1, steps)) + 2 * orders * (count - 1) + 1
    done = 0

    def measure(removed: np.ndarray) -> float:
        nonlocal done
        done += 1
        subject.progress("remove parts", min(done, total), total, "runs")
        return removal.kl(removed)

    alone = np.array([measure(row) for row in np.eye(count, dtype=bool)])
    whole = measure(np.ones(count, dtype=bool)) if count > 1 else float(alone[0])
    gains = _shapley(measure, alone, whole, orders, subject.seed)
    greedy = _greedy(measure, alone, steps)
    subject.progress("remove parts", total, total, "runs")
    spread = gains.std(axis=0, ddof=1) / np.sqrt(orders) if orders > 1 else [None] * count
    frame = pl.DataFrame(
        {
            "matrix": [part.matrix for part in parts],
            "layer": [part.layer for part in parts],
            "component": [part.component for part in parts],
            "sigma": [part.sigma for part in parts],
            "share": [part.share for part in parts],
            "kl_alone": alone,
            "shapley": gains.mean(axis=0),
            "shapley_se": pl.Series(spread, dtype=pl.Float64),
            "shapley_share": [
                value / removal.gap if removal.gap > 0 else None for value in gains.mean(axis=0)
            ],
            "greedy_rank": pl.Series(
                [greedy.get(i, (None,))[0] for i in range(count)], dtype=pl.Int64
            ),
            "kl_greedy": pl.Series(
                [greedy[i][1] if i in greedy else None for i in range(count)], dtype=pl.Float64
            ),
        }
    )
    return frame.sort("shapley", descending=True, maintain_order=True)


def _shapley(
    measure: Any, alone: np.ndarray, whole: float, orders: int, seed: int
) -> Float[np.ndarray, "orders parts"]:
    """Return each part's gain, averaged over every random order and the same order backwards."""
    count = len(alone)
    generator = rng(seed, "Shapley orders")
    gains = np.zeros((orders, count))
    for row in gains:
        order = generator.permutation(count)
        for walk in (order, order[::-1]):
            removed, before = np.zeros(count, dtype=bool), 0.0
            for place, part in enumerate(walk):
                removed[part] = True
                if place == 0:
                    after = float(alone[part])
                else:
                    after = whole if place == count - 1 else measure(removed)
                row[part] += (after - before) / 2
                before = after
    return gains


def _greedy(measure: Any, alone: np.ndarray, steps: int) -> dict[int, tuple[int, float]]:
    """Return rank and gain of the parts that a greedy removal comes to."""
    found: dict[int, tuple[int, float]] = {}
    removed, before = np.zeros(len(alone), dtype=bool), 0.0
    for rank in range(1, steps + 1):
        best, after = -1, -np.inf
        for part in np.flatnonzero(~removed):
            trial = removed.copy()
            trial[part] = True
            kl = float(alone[part]) if rank == 1 else measure(trial)
            if kl > after:
                best, after = int(part), kl
        removed[best] = True
        found[best] = (rank, after - before)
        before = after
    return found


def _module(modules: dict[str, nn.Module], path: str) -> nn.Module:
    """Return the module of a weight's path, whatever prefix the file leaves out or adds."""
    if path in modules:
        return modules[path]
    found = [
        m
        for name, m in modules.items()
        if name.endswith(f".{path}") or (path.endswith(f".{name}") and name)
    ]
    if len(found) != 1:
        raise InputError(f"the model has no module {path}")
    return found[0]


def _without(parts: Sequence[Part]) -> Any:
    left = torch.stack([part.sigma * part.left for part in parts])
    right = torch.stack([part.right for part in parts], dim=1)

    def hook(_module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        x = inputs[0]
        return output - (x @ right.to(x)) @ left.to(x)

    return hook
