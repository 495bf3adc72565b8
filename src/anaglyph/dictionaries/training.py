"""The trainer, one for all methods: data in, a dictionary out.

Activations are scaled (``initial.py``), batches come shuffled from the store, ``engine.py`` does
the step, and the scale is folded into the saved weights. A run is bit-reproducible for its seed
and number of threads, also when it is killed and resumed.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from anaglyph.core.errors import InputError
from anaglyph.core.files import digest
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
    Survey,
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
from anaglyph.dictionaries.screen import is_worthwhile
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
    device: str = "cpu",
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
        device: Where to train: "cpu" or "cuda". The dictionary is returned on the CPU.
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
        "options": dict(options or {}),
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
    chosen = {}
    if config.choose:
        started = time.perf_counter()
        choice = choose_k(store, config, lambda pilot: _fit(store, pilot)[0], progress)
        chosen = {"k_curve": choice.curve, "k_seconds": time.perf_counter() - started}
        config = config.changed(k=choice.k)
    key = digest({"config": config.as_dict(), "store": store.key, "layer": store.layer})
    keeper = Checkpoint(None if checkpoint is None else Path(checkpoint), key, checkpoint_seconds)
    dictionary, silent_for, steps, seconds = _fit(store, config, keeper, progress)
    stats, fires = heldout_stats(dictionary, store)
    seen = steps * config.batch
    unused = silent_for >= min(config.dead_after, seen)
    dictionary.stats = stats | {
        "dead_share": float((unused & ~fires).mean()),
        "k": config.k,
        "threshold": dictionary.threshold,
        "steps": steps,
        "tokens": seen,
        "seconds": seconds,
        "tokens_per_second": seen / seconds if seen else None,
        **chosen,
    }
    keeper.remove()
    return dictionary


def _fit(
    store: PairedStore,
    config: TrainConfig,
    keeper: Checkpoint | None = None,
    progress: Progress = silent,
) -> tuple[Dictionary, Int64[np.ndarray, " latents"], int, float]:
    """Train; return the dictionary, for how many tokens latents were silent, steps and seconds."""
    spec = get_method(config.method, config.options)
    spec.widths(store.d_base, store.d_tuned)
    if training_tokens(store) == 0:
        raise InputError(f"the store at {store.path} has no training tokens")
    known = survey(store, spec, config.seed)
    weights = initial_weights(spec, known, config.latents, config.seed, config.device)
    kernels = choose_kernels(config.kernels, config.device)
    engine = Engine(
        spec,
        weights,
        make_sparsity(config, kernels, config.steps, config.budgets),
        kernels,
        batch=config.batch,
        dead_after=config.dead_after,
        screened=is_worthwhile(config.device),
    )
    # Where nothing varies there is nothing to learn: a model compared with itself.
    steps = config.steps if known.varies else 0
    keeper = keeper or Checkpoint(None, "")
    seconds = _run(store, config, engine, known, steps, keeper, progress)

    if weights.threshold is None:
        weights.threshold = engine.sparsity.bounds(engine.scores)
    mean_scale = sum(known.scales) / len(known.scales)
    threshold = engine.sparsity.threshold
    dictionary = Dictionary(
        spec,
        fold_scales(weights, known.scales),
        Selection(
            k=config.k,
            sparsity=config.sparsity,
            threshold=None if threshold is None else threshold / mean_scale,
            source_weights=tuple(scale / mean_scale for scale in known.scales),
            radii=known.radii,
        ),
        config={**config.as_dict(), "store": store.key, "layer": store.layer},
    )
    return dictionary, engine.silent.cpu().numpy(), steps, seconds


def _run(
    store: PairedStore,
    config: TrainConfig,
    engine: Engine,
    known: Survey,
    steps: int,
    keeper: Checkpoint,
    progress: Progress,
) -> float:
    radii = known.radii and tuple(
        radius * scale for radius, scale in zip(known.radii, known.scales, strict=True)
    )
    done, seconds_before = keeper.restore(engine)
    start = time.perf_counter()
    seconds = seconds_before
    batches = store.batches(config.batch, config.seed, skip=done)
    for step, (base, tuned) in zip(range(done, steps), batches, strict=False):
        targets = tuple(
            (values * scale).to(config.device)
            for values, scale in zip(engine.method.inputs(base, tuned), known.scales, strict=True)
        )
        if radii is not None:
            centres = engine.weights.decoder_bias
            targets = pull_in(targets, centres, pull_factors(targets, centres, radii))
        rate = learning_rate(step, config.steps, config.lr)
        result = engine.step(targets, step, rate)
        if not math.isfinite(result.loss):
            if not all(bool(values.isfinite().all()) for values in targets):
                raise _not_finite(store)
            raise InputError(
                f"training diverged at step {step} of {steps}: lr={config.lr:g} is too high"
                f"{keeper.kept}"
            )
        seconds = seconds_before + time.perf_counter() - start
        progress(f"train {config.method}", (step + 1) * config.batch, steps * config.batch)
        keeper.save_if_due(engine, step + 1, seconds)
    return seconds


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
