import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from safetensors import safe_open

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.threads import use_threads
from anaglyph.dictionaries import Dictionary, Selection, get_method, train
from anaglyph.dictionaries.checkpoint import Checkpoint
from anaglyph.dictionaries.config import TrainConfig, default_tokens
from anaglyph.dictionaries.initial import fold_scales, initial_weights, survey
from anaglyph.dictionaries.optimiser import default_rate, learning_rate
from anaglyph.dictionaries.training import train_with
from anaglyph.store import PairedStore

SMALL: dict[str, Any] = {"latents": 48, "k": 3, "tokens": 6400, "batch": 320, "threads": 1}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with use_threads(1):
        yield


def config_of(method: str, tokens: int, seed: int, **more: Any) -> TrainConfig:
    fields = {"latents": 48, "k": 3, "lr": 1e-3, "batch": 320, **more}
    return TrainConfig.of(method=method, tokens=tokens, seed=seed, **fields)


def same(first: Dictionary, second: Dictionary) -> bool:
    pairs = zip(first.weights.named().values(), second.weights.named().values(), strict=True)
    return first.threshold == second.threshold and all(torch.equal(a, b) for a, b in pairs)


def test_a_seed_gives_the_same_bits_and_another_seed_others(store: PairedStore) -> None:
    first = train(store, "crosscoder", seed=5, **SMALL)
    assert same(first, train(store, "crosscoder", seed=5, **SMALL))
    assert not same(first, train(store, "crosscoder", seed=6, **SMALL))


def test_kernels_agree_on_the_result(store: PairedStore) -> None:
    found = {}
    for kernels in ("numba", "torch"):
        config = config_of("diff-sae", 1600, 0, kernels=kernels)
        found[kernels] = train_with(store, config)
    pairs = zip(
        *(dictionary.weights.named().values() for dictionary in found.values()), strict=True
    )
    for first, second in pairs:
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


def test_order_of_the_data_and_first_weights_come_from_separate_generators(
    store: PairedStore,
) -> None:
    """Data drawn by torch or numpy from the seed itself must not resemble the first decoders."""
    method = get_method("tuned-sae")
    known = survey(store, method, seed=7)
    rows = initial_weights(method, known, 48, seed=7).decoder[0]
    rows = rows / rows.norm(dim=1, keepdim=True)
    torch_data = torch.randn(48, 64, generator=torch.Generator().manual_seed(7))
    numpy_data = np.random.default_rng(7).standard_normal((48, 64))
    for data in (torch_data, torch.from_numpy(numpy_data).float()):
        cosines = rows @ (data / data.norm(dim=1, keepdim=True)).T
        assert cosines.abs().max() < 0.7
    order = torch.cat([next(store.batches(16, seed))[1] for seed in (7, 8)])
    assert not torch.equal(order[:16], order[16:])


def test_initial_decoders_are_the_encoder_and_equal_for_both_models(store: PairedStore) -> None:
    method = get_method("crosscoder")
    known = survey(store, method, 0)
    weights = initial_weights(method, known, 20, 0)
    assert torch.equal(weights.decoder[0], weights.decoder[1])
    assert torch.equal(weights.encoder[0], weights.decoder[0])
    torch.testing.assert_close(weights.decoder[0].norm(dim=1), torch.full((20,), 0.5))
    # Codes start from centred activations.
    means = [torch.from_numpy(mean * scale).float() for mean, scale in zip(*known[:2], strict=True)]
    pre = sum(mean @ matrix.T for mean, matrix in zip(means, weights.encoder, strict=True))
    torch.testing.assert_close(pre + weights.encoder_bias, torch.zeros(20), atol=1e-5, rtol=0)


def test_scales_bring_the_variance_to_the_width(store: PairedStore) -> None:
    for name in ("tuned-sae", "diff-sae"):
        method = get_method(name)
        known = survey(store, method, 0)
        blocks = [method.inputs(block.base, block.tuned)[0] for block in store.blocks()]
        scaled = torch.cat(blocks) * known.scales[0]
        assert float(scaled.var(0, correction=0).sum()) == pytest.approx(64, rel=0.02)


def test_what_counts_as_massive_is_further_out_for_a_difference(store: PairedStore) -> None:
    for name, quantile, multiple in (("tuned-sae", 0.5, 5.0), ("diff-sae", 0.95, 15.0)):
        method = get_method(name)
        values = torch.cat([method.inputs(block.base, block.tuned)[0] for block in store.blocks()])
        distance = (values - values.median(0).values).norm(dim=1).quantile(quantile)
        radii = survey(store, method, 0).radii
        assert radii is not None
        assert radii[0] == pytest.approx(multiple * float(distance), rel=0.05)


def test_folding_scales_changes_units_and_not_codes(store: PairedStore) -> None:
    method = get_method("tuned-sae")
    weights = initial_weights(method, survey(store, method, 0), 20, 0)
    scaled, raw = (
        Dictionary(method, folded, Selection(k=3, threshold=threshold))
        for folded, threshold in ((weights, 0.5), (fold_scales(weights, (4.0,)), 0.125))
    )
    x = torch.randn(30, 64)
    codes, same_codes = scaled.encode(4 * x, 4 * x), raw.encode(x, x)
    np.testing.assert_array_equal(codes.indices, same_codes.indices)
    np.testing.assert_allclose(codes.values, same_codes.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaled.reconstruct(codes)[0], 4 * raw.reconstruct(same_codes)[0])


def test_the_unit_of_the_activations_does_not_matter(
    planted, make_store: Callable[..., PairedStore]
) -> None:
    """Powers of two are exact in floating point, so the result is the same to the bit."""
    plain = make_store(planted.base[:800], planted.tuned[:800])
    first = train(plain, "crosscoder", **SMALL)
    large = PairedStore.from_arrays(
        1024 * planted.base[:800],
        1024 * planted.tuned[:800],
        plain.path.parent / "large",
        sequence_ids=np.arange(800) // 10,
    )
    second = train(large, "crosscoder", **SMALL)
    assert first.stats["fve"] == pytest.approx(second.stats["fve"], rel=1e-6)
    codes = first.encode(*plain.gather(np.arange(50)))
    np.testing.assert_allclose(
        codes.values, second.encode(*large.gather(np.arange(50))).values, rtol=1e-5
    )


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(step, 1000, 2.0) for step in range(1000)]
    assert rates[0] == pytest.approx(2 / 101)
    assert rates[150] == rates[799] == 2.0
    assert rates[900] == pytest.approx(1.0)
    assert 0 < rates[999] < 0.02
    assert learning_rate(0, 1, 2.0) == 2.0


def test_default_rate_falls_with_width_and_length() -> None:
    assert default_rate(576, 300) == default_rate(576, 1000) == pytest.approx(0.00208, rel=1e-2)
    assert default_rate(64, 1000) == pytest.approx(0.00625)
    assert default_rate(2304, 48_828) == pytest.approx(1.5e-4, rel=1e-2)


def test_default_tokens_are_an_epoch_or_two_million_or_a_hundred_epochs() -> None:
    assert default_tokens(5_000_000) == 5_000_000
    assert default_tokens(100_000) == 2_048_000
    assert default_tokens(50) == 5000


def test_models_of_differing_widths(planted, make_store: Callable[..., PairedStore]) -> None:
    store = make_store(planted.base[:800, :40], planted.tuned[:800])
    dictionary = train(store, "crosscoder", **SMALL)
    assert dictionary.widths == (40, 64)
    assert dictionary.stats["fve"] > 0
    codes = dictionary.encode(*store.gather(np.arange(9)))
    assert dictionary.difference(codes) is None
    with pytest.raises(InputError, match="d_base=40, d_tuned=64"):
        train(store, "diff-sae", **SMALL)


def test_a_model_compared_with_itself_has_nothing_to_learn(
    planted, make_store: Callable[..., PairedStore]
) -> None:
    store = make_store(planted.base[:400], planted.base[:400])
    dictionary = train(store, "diff-sae", **SMALL)
    assert dictionary.stats["steps"] == 0
    assert dictionary.stats["fve"] is None
    assert dictionary.stats["l0"] == 0
    assert dictionary.stats["dead_share"] == 1
    assert len(dictionary.encode(*store.gather(np.arange(50))).indices) == 0


def test_without_heldout_sequences_statistics_are_none(planted, tmp_path: Path) -> None:
    store = PairedStore.from_arrays(
        planted.base[:400], planted.tuned[:400], tmp_path / "one", sequence_ids=np.zeros(400, int)
    )
    stats = train(store, "diff-sae", **SMALL).stats
    assert (stats["fve"], stats["l0"], stats["heldout_tokens"]) == (None, None, 0)


def test_a_massive_token_does_not_spoil_the_others(
    planted, make_store: Callable[..., PairedStore]
) -> None:
    base, tuned = planted.base[:2000].copy(), planted.tuned[:2000].copy()
    sink = np.random.default_rng(0).standard_normal(64).astype(np.float32) * 100
    base[::10], tuned[::10] = sink, sink * 1.01
    store = make_store(base, tuned)
    settings = {**SMALL, "tokens": 32_000}
    dictionary = train(store, "tuned-sae", **settings)
    assert dictionary.stats["massive_tokens"] == dictionary.stats["heldout_tokens"] / 10
    assert dictionary.stats["fve_all"] > 0.99
    plain = train(
        PairedStore.from_arrays(
            planted.base[:2000],
            planted.tuned[:2000],
            store.path.parent / "plain",
            sequence_ids=np.arange(2000) // 10,
        ),
        "tuned-sae",
        **settings,
    )
    assert plain.stats["massive_tokens"] == 0
    assert plain.stats["fve_all"] == plain.stats["fve"]
    assert dictionary.stats["fve"] > plain.stats["fve"] - 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 49}, "k=49 exceeds latents=48"),
        ({"k": 0}, "k: 0 must be a positive number"),
        ({"k": 1.5, "sparsity": "topk"}, "k=1.5: topk selects a whole number"),
        ({"k": 0.001}, "k=0.001 selects nothing of a batch of"),
        ({"latents": 0, "k": None}, "latents: .* greater than or equal to 1"),
        ({"batch": 0}, "batch: .* greater than or equal to 1"),
        ({"tokens": 0}, "tokens: .* greater than or equal to 1"),
        ({"lr": -0.1}, "lr: .* greater than 0 .got -0.1"),
        ({"lr": float("nan")}, "lr: .* finite number"),
        ({"seed": -1}, "seed: .* greater than or equal to 0"),
        ({"threads": 0}, "threads=0 must be between 1 and"),
        ({"method": "sae"}, "unknown method 'sae'"),
        ({"sparsity": "l0"}, "unknown sparsity 'l0'"),
    ],
)
def test_bad_settings_are_refused(store: PairedStore, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(store, **{"method": "crosscoder", **SMALL, **settings})


def test_a_rate_that_is_too_high_is_named(store: PairedStore) -> None:
    with pytest.raises(InputError, match=r"diverged at step \d+ of \d+: lr=1e\+30"):
        train(store, "tuned-sae", lr=1e30, **SMALL)


def test_a_training_that_diverges_keeps_its_last_good_state(
    store: PairedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_high(step: int, steps: int, peak: float) -> float:
        return 1e30 if step == 5 else 1e-3

    monkeypatch.setattr("anaglyph.dictionaries.training.learning_rate", too_high)
    config, file = config_of("tuned-sae", 6400, 0), tmp_path / "state"
    said = r"diverged at step \d+ of 20: lr=0.001 is too high; the state after step (\d+) is in .*"
    with pytest.raises(InputError, match=said) as caught:
        train_with(store, config, checkpoint=file, checkpoint_seconds=0.0)
    with safe_open(file, framework="pt") as kept:
        tensors = [kept.get_tensor(name) for name in kept.keys()]  # noqa: SIM118
        step = json.loads(kept.metadata()["state"])["step"]
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)
    assert f"after step {step} " in str(caught.value)
    assert step >= 5


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_an_activation_that_is_not_finite_is_named(planted, tmp_path: Path, side: str) -> None:
    """A store is checked as it is written; what is damaged afterwards is named by training."""
    sides = {"base": planted.base[:400].copy(), "tuned": planted.tuned[:400].copy()}
    marker = np.float32(123.456)
    token = 377
    sides[side][token, 5] = marker
    store = PairedStore.from_arrays(
        **sides, out=tmp_path / "store", sequence_ids=np.arange(400) // 20
    )
    assert not store.heldout[token // 20]
    (shard,) = store.path.glob("shard-*.safetensors")
    whole = shard.read_bytes()
    assert whole.count(marker.tobytes()) == 1
    opened = PairedStore.open(store.path)
    shard.write_bytes(whole.replace(marker.tobytes(), np.float32(np.nan).tobytes()))
    with pytest.raises(InputError, match=f"inf in the {side} activations: token 377, in sequ.* 18"):
        train(opened, "crosscoder", **SMALL)
    with pytest.raises(StoreError, match="damaged"):
        PairedStore.open(store.path)


@pytest.mark.parametrize("method", ["diff-sae", "crosscoder", "tuned-sae", "base-sae"])
def test_constant_activations_have_nothing_to_learn(method: str, tmp_path: Path) -> None:
    base, tuned = np.full((60, 8), 3.0), np.full((60, 8), 5.0)
    store = PairedStore.from_arrays(
        base, tuned, tmp_path / "store", sequence_ids=np.arange(60) // 5
    )
    dictionary = train(store, method, **SMALL)
    assert dictionary.stats["steps"] == 0
    (rebuilt, *_) = dictionary.reconstruct(dictionary.encode(base, tuned))
    constant = {"diff-sae": 2.0, "tuned-sae": 5.0}.get(method, 3.0)
    assert rebuilt.numpy() == pytest.approx(np.full((60, 8), constant))


def test_one_token_sequences_train_as_any_other(planted, tmp_path: Path) -> None:
    store = PairedStore.from_arrays(planted.base[:800], planted.tuned[:800], tmp_path / "store")
    assert store.n_sequences == 800
    dictionary = train(store, "diff-sae", **{**SMALL, "tokens": 32_000})
    assert dictionary.stats["fve"] > 0.3
    assert dictionary.stats["heldout_tokens"] == int(store.heldout.sum())


def test_threads_hold_for_the_call_only(store: PairedStore) -> None:
    before = torch.get_num_threads(), numba.get_num_threads()
    seen = []

    def progress(task: str, done: int, total: int, unit: str = "tokens") -> None:
        seen.append((torch.get_num_threads(), numba.get_num_threads(), task, done, total))

    train(store, "diff-sae", progress=progress, **SMALL)
    assert seen[-1] == (1, 1, "train diff-sae", 6400, 6400)
    assert len(seen) == 20
    assert (torch.get_num_threads(), numba.get_num_threads()) == before
    with pytest.raises(RuntimeError), use_threads(1):
        raise RuntimeError
    assert (torch.get_num_threads(), numba.get_num_threads()) == before


class Seen:
    """Remembers what a training reported."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def __call__(self, task: str, done: int, total: int, unit: str = "tokens") -> None:
        self.done.append(done)


KILLED = """
import sys, time
from anaglyph.dictionaries.config import TrainConfig
from anaglyph.core.threads import use_threads
from anaglyph.dictionaries.training import train_with
from anaglyph.store import PairedStore
from pathlib import Path

def progress(task, done, total, unit="tokens"):
    Path(sys.argv[2] + ".seen").write_text(str(done))
    time.sleep(0.05)

config = TrainConfig.of(
    method="crosscoder", latents=48, k=3, tokens=6400, seed=5, lr=1e-3, batch=320
)
with use_threads(1):
    train_with(PairedStore.open(sys.argv[1]), config, checkpoint=sys.argv[2],
               checkpoint_seconds=0.0, progress=progress)
"""


def test_a_killed_training_goes_on_to_the_same_bits(store: PairedStore, tmp_path: Path) -> None:
    config = config_of("crosscoder", 6400, 5)
    whole = train_with(store, config)
    checkpoint, seen = tmp_path / "state", tmp_path / "state.seen"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store.path), str(checkpoint)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if checkpoint.exists() and seen.exists() and int(seen.read_text() or 0) >= 5 * 320:
            break
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()

    seen_now = Seen()
    resumed = train_with(store, config, checkpoint=checkpoint, progress=seen_now)
    assert 4 * 320 < seen_now.done[0] <= 6400
    assert same(resumed, whole)
    assert not checkpoint.exists()


def test_a_checkpoint_of_other_settings_is_ignored(store: PairedStore, tmp_path: Path) -> None:
    config = config_of("diff-sae", 3200, 5)
    checkpoint = tmp_path / "state"

    class StopError(Exception):
        """Ends a training early."""

    def stop(task: str, done: int, total: int, unit: str = "tokens") -> None:
        if done >= 5 * 320:
            raise StopError

    with pytest.raises(StopError):
        train_with(store, config, checkpoint=checkpoint, checkpoint_seconds=0.0, progress=stop)
    assert checkpoint.exists()
    other = config_of("diff-sae", 3200, 6)
    seen = Seen()
    found = train_with(store, other, checkpoint=checkpoint, progress=seen)
    assert seen.done[0] == 320
    assert same(found, train_with(store, other))


def test_a_damaged_checkpoint_is_refused(store: PairedStore, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state"
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(StoreError, match="damaged, delete it"):
        train(store, "diff-sae", checkpoint=checkpoint, **SMALL)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_bit_of_a_checkpoint_is_refused(
    store: PairedStore, tmp_path: Path, share: float
) -> None:
    config, path = config_of("diff-sae", 3200, 5), tmp_path / "state"

    class StopError(Exception):
        """Ends a training early."""

    def stop(task: str, done: int, total: int, unit: str = "tokens") -> None:
        if done >= 5 * 320:
            raise StopError

    with pytest.raises(StopError):
        train_with(store, config, checkpoint=path, checkpoint_seconds=0.0, progress=stop)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 2
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"checkpoint .* is damaged, delete it"):
        train_with(store, config, checkpoint=path)


def test_checkpoints_are_rare(store: PairedStore, tmp_path: Path) -> None:
    keeper = Checkpoint(tmp_path / "state", "key")
    assert keeper.interval == 60.0
    train(store, "diff-sae", checkpoint=tmp_path / "state", **SMALL)
    assert list(tmp_path.iterdir()) == []
