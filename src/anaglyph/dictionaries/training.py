"""The trainer, one for all methods: data in, a dictionary out.

Activations are scaled (``initial.py``), batches come shuffled from the store or from the running
models (``stream.py``), ``engine.py`` does the step, and the scale is folded into the saved weights.
A run is bit-reproducible for its seed and number of threads, also when it is killed and resumed.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.core.devices import (
    ahead,
    multiplies_bfloat16,
    numbers_of,
    resolve_device,
    sent,
)
from anaglyph.core.errors import InputError
from anaglyph.core.files import digest
from anaglyph.core.processes import ALONE, Group, together
from anaglyph.core.progress import Progress, silent
from anaglyph.core.settings import DictionarySettings
from anaglyph.core.threads import use_threads
from anaglyph.core.validation import validate
from anaglyph.dictionaries.checkpoint import Checkpoint
from anaglyph.dictionaries.choice import choose_k
from anaglyph.dictionaries.config import TrainConfig, plain, resolve
from anaglyph.dictionaries.dictionary import Dictionary
from anaglyph.dictionaries.engine import Engine
from anaglyph.dictionaries.evaluation import heldout_stats
from anaglyph.dictionaries.initial import (
    fold_scales,
    initial_weights,
    survey,
    training_tokens,
)
from anaglyph.dictionaries.kernels import choose_kernels
from anaglyph.dictionaries.methods import get_method
from anaglyph.dictionaries.optimiser import learning_rate
from anaglyph.dictionaries.outliers import pull_factors, pull_in
from anaglyph.dictionaries.saving import Selection
from anaglyph.dictionaries.sparsity import make_sparsity
from anaglyph.store import PairedStore


def train(
    store: PairedStore,
    method: str = "diff-sae",
    latents: int = 8192,
    k: int | float | str | None = None,
    tokens: int | None = None,
    seed: int = 0,
    *,
    sparsity: str = "batchtopk",
    batch: int = 2048,
    mu: float | None = None,
    anneal: float = 0.0,
    options: Mapping[str, Any] | None = None,
    lr: float | None = None,
    device: str = "auto",
    threads: int | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
) -> Dictionary:
    """Train a dictionary on the training sequences of a store.

    Args:
        store: Activations of both models at one layer.
        method: Name of a registered method.
        latents: Size of the dictionary.
        k: Mean number of active latents a token; None takes the method's own, "auto" chooses it
            from the data by short pilot trainings (``choice.py``), for about the time of one
            training more. "l1" takes no k and ignores it.
        tokens: Tokens to see, repetitions included; None fits the store (``default_tokens``).
        seed: Seed of the initial weights and of the order of the data.
        sparsity: Name of a registered sparsity.
        batch: Tokens a step.
        mu: Weight of the penalty of "l1", for activations scaled to unit variance a dimension,
            reached after a fifth of the run; None takes ``default_mu``.
        anneal: Fraction of the run over which k falls from eight times its value, at most 0.5.
        options: Options of the method, such as ``{"norm": "unsquared"}``.
        lr: Peak learning rate of Adam, for activations scaled to unit variance a dimension; None
            fits width and length of the run (``optimiser.default_rate``).
        device: Where to train: "auto" (a CUDA GPU if there is one), "cpu", "cuda", "cuda:N", "mps".
        threads: CPU threads; None leaves them as they are.
        checkpoint: File in which to keep the unfinished state; removed at the end.
        progress: Told of tokens seen.

    Returns:
        A dictionary of raw activations; ``stats`` holds FVE, L0 and dead share on held-out
        sequences, k, steps, tokens, seconds and tokens per second; with k="auto" also
        ``k_curve``, a row for each k tried, and ``k_seconds``, the time the choice took.

    Raises:
        InputError: A setting is out of range, the store has no training tokens or, for
            k="auto", no held-out ones, an activation is
            not finite, or the training diverged.
        StoreError: The checkpoint is damaged.
    """
    settings = {
        "sparsity": sparsity,
        "latents": latents,
        "k": k,
        "mu": mu,
        "anneal": anneal,
        "options": {} if options is None else options,
        "tokens": tokens,
        "batch": batch,
        "lr": lr,
    }
    checked = validate(DictionarySettings, plain(settings))
    config = resolve(store, method, checked, seed, device)
    with use_threads(threads):
        return train_with(store, config, checkpoint=checkpoint, progress=progress)


def train_with(
    store: PairedStore,
    config: TrainConfig,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: Progress = silent,
) -> Dictionary:
    """Train with settings that ``resolve`` completed; see :func:`train`."""
    config, chosen = with_k(store, config, progress)
    arguments = {
        "store": str(store.path.resolve()),
        "layer": store.layer,
        "config": config.as_dict(),
        "checkpoint": None if checkpoint is None else str(Path(checkpoint).resolve()),
        "threads": torch.get_num_threads(),
    }
    with together("train", **arguments) as group:
        training = Training(
            store, config, checkpoint, checkpoint_seconds=checkpoint_seconds, group=group
        )
        training.run(progress)
    return training.finish(chosen)


def train_along(
    group: Group,
    store: str,
    layer: int,
    config: dict[str, Any],
    checkpoint: str | None,
    threads: int,
) -> None:
    """Do another process's part of ``train_with``; arguments as process 0 sends them."""
    own = TrainConfig.of(**config, choose=False)
    own = own.changed(device=str(resolve_device(torch.device(own.device).type)))
    with use_threads(threads):
        Training(PairedStore.open(store).at(layer), own, checkpoint, group=group).run()


def with_k(
    store: PairedStore, config: TrainConfig, progress: Progress = silent
) -> tuple[TrainConfig, dict[str, Any]]:
    """Return the settings with k chosen, if that is left to the data, and how it was chosen."""
    if not config.choose:
        return config, {}

    def fit(pilot: TrainConfig) -> Dictionary:
        training = Training(store, pilot)
        training.run()
        return training.dictionary()

    started = time.perf_counter()
    choice = choose_k(store, config, fit, progress)
    seconds = time.perf_counter() - started
    return config.changed(k=choice.k), {"k_curve": choice.curve, "k_seconds": seconds}


class Training:
    """One dictionary in training: batches in, at the end a dictionary out.

    Args:
        store: Tells scales, outliers and, at the end, how good the dictionary is. ``run`` also
            takes the batches from it.
        config: Settings that ``resolve`` completed, k chosen.
        checkpoint: File in which to keep the unfinished state; what it has is taken up.
        text: Digest of what the batches come from, if not from the store.
        checkpoint_seconds: Minimum seconds between two saves.
        group: The processes that train it together; the first saves.

    Attributes:
        steps: Steps to do.
        done: Steps done.

    Raises:
        InputError: The store has no training tokens, or memory is too small.
        StoreError: The checkpoint is damaged.
    """

    def __init__(
        self,
        store: PairedStore,
        config: TrainConfig,
        checkpoint: str | Path | None = None,
        *,
        text: str | None = None,
        checkpoint_seconds: float = 60.0,
        group: Group = ALONE,
    ) -> None:
        self._store, self.config, self._group = store, config, group
        self._spec = get_method(config.method, config.options)
        self._spec.widths(store.d_base, store.d_tuned)
        if "difference" in self._spec.sources and not store.related:
            raise InputError(
                f"{config.method} subtracts activations, and the two models of {store.path} have"
                " no common coordinates: use a crosscoder or dfc"
            )
        if training_tokens(store) == 0:
            raise InputError(f"the store at {store.path} has no training tokens")
        self._known = survey(store, self._spec, config.seed)
        self._device = torch.device(config.device)
        # Where nothing varies there is nothing to learn: a model compared with itself.
        self.steps = config.steps if self._known.varies else 0
        settings = config.as_dict() | {"device": numbers_of(self._device)}
        facts = {"config": settings, "store": store.key, "layer": store.layer}
        key = digest(facts if text is None else facts | {"text": text})
        path = None if checkpoint is None else Path(checkpoint)
        self._keeper = Checkpoint(path, key, checkpoint_seconds)
        with self._in_memory():
            weights = initial_weights(
                self._spec, self._known, config.latents, config.seed, config.device
            )
            kernels = choose_kernels(config.kernels, config.device)
            self.engine = Engine(
                self._spec,
                weights,
                make_sparsity(config, kernels, config.steps, config.budgets),
                kernels,
                batch=config.batch,
                dead_after=config.dead_after,
                screened=multiplies_bfloat16(config.device),
                group=group,
            )
        self.done, seconds = self._keeper.restore(self.engine)
        if group.rank > 0:
            self._keeper.path = None
        if len(set(group.exchange(self.done))) > 1:
            raise InputError(f"the processes read different states of {path}: run this again")
        self._started = time.perf_counter() - seconds

    def run(self, progress: Progress = silent) -> None:
        """Do all steps that are left, on batches of the store."""
        config = self.config
        batches = self._store.batches(config.batch, config.seed, skip=self.done)
        if self._device.type != "cpu":
            batches = ahead(batches)
        for _, (base, tuned) in zip(range(self.done, self.steps), batches, strict=False):
            share = slice(self._group.rank, None, self._group.size)
            self.step(base[share], tuned[share])
            progress(f"train {config.method}", self.done * config.batch, self.steps * config.batch)

    def step(
        self, base: Float[Tensor, "batch d_base"], tuned: Float[Tensor, "batch d_tuned"]
    ) -> None:
        """Do one step on raw activations.

        Raises:
            InputError: An activation is not finite, the training diverged, or memory is too small.
        """
        known, config, engine = self._known, self.config, self.engine
        with self._in_memory():
            targets = tuple(
                sent(values, self._device) * scale
                for values, scale in zip(
                    engine.method.inputs(base, tuned), known.scales, strict=True
                )
            )
            if known.radii is not None:
                radii = tuple(r * s for r, s in zip(known.radii, known.scales, strict=True))
                centres = engine.weights.decoder_bias
                targets = pull_in(targets, centres, pull_factors(targets, centres, radii))
            rate = learning_rate(self.done, config.steps, config.lr)
            result = engine.step(targets, self.done, rate)
        if not math.isfinite(result.loss):
            if not all(bool(values.isfinite().all()) for values in targets):
                raise _not_finite(self._store)
            raise InputError(
                f"training diverged at step {self.done} of {self.steps}: lr={config.lr:g} is too "
                f"high{self._keeper.kept}"
            )
        self.done += 1
        self._keeper.save_if_due(engine, self.done, self.seconds)

    @property
    def seconds(self) -> float:
        """Time since the start, that of an earlier process included."""
        return time.perf_counter() - self._started

    def dictionary(self) -> Dictionary:
        """Return the dictionary as it is now, for raw activations."""
        engine, known, config = self.engine, self._known, self.config
        weights = engine.weights
        if weights.threshold is None:
            weights.threshold = engine.sparsity.bounds(engine.scores)
        mean_scale = sum(known.scales) / len(known.scales)
        threshold = engine.sparsity.threshold
        return Dictionary(
            self._spec,
            fold_scales(weights, known.scales),
            Selection(
                k=config.k,
                sparsity=config.sparsity,
                threshold=None if threshold is None else threshold / mean_scale,
                source_weights=tuple(scale / mean_scale for scale in known.scales),
                radii=known.radii,
            ),
            config={**config.as_dict(), "store": self._store.key, "layer": self._store.layer},
        )

    def finish(
        self, chosen: Mapping[str, Any] | None = None, folder: Path | None = None
    ) -> Dictionary:
        """Return the dictionary with its statistics, and remove the checkpoint.

        Args:
            chosen: Further statistics: how k was chosen.
            folder: Where to save the dictionary, before its checkpoint goes.
        """
        seconds, config = self.seconds, self.config
        dictionary = self.dictionary().on(self._device)
        stats, fires = heldout_stats(dictionary, self._store)
        seen = self.steps * config.batch
        unused = self.engine.silent.cpu().numpy() >= min(config.dead_after, seen)
        dictionary.stats = stats | {
            "dead_share": float((unused & ~fires).mean()),
            "k": config.k,
            "threshold": dictionary.threshold,
            "steps": self.steps,
            "tokens": seen,
            "seconds": seconds,
            "tokens_per_second": seen / seconds if seen else None,
            **(chosen or {}),
        }
        if folder is not None:
            dictionary.save(folder)
        self._keeper.remove()
        return dictionary

    @contextmanager
    def _in_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            config = self.config
            raise InputError(
                f"out of memory on {config.device}: {config.latents} latents and batches of "
                f"{config.batch} tokens do not fit. Use fewer --latents or a smaller --batch"
            ) from None


def _not_finite(store: PairedStore) -> InputError:
    """Return the error that names the first activation which is not finite."""
    sequences = store.sequence_of_tokens()
    for block in store.blocks("train"):
        for side, values in (("base", block.base), ("tuned", block.tuned)):
            rows = (~values.isfinite()).any(1).nonzero()[:, 0]
            if len(rows):
                token = int(block.tokens[int(rows[0])])
                return InputError(
                    f"the store at {store.path} has NaN or inf in the {side} activations: token "
                    f"{token}, in sequence {sequences[token]}. Collect it again"
                )
    return InputError(f"the activations in the store at {store.path} are too large to train on")
