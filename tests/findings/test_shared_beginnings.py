"""A system prompt read with every chat is one measurement, not one a chat."""

import numpy as np

import anaglyph as ag
from anaglyph.findings.sample import load_sample


def test_a_shared_beginning_counts_once(tmp_path) -> None:
    rng = np.random.default_rng(0)
    prompt, own, chats, d = 6, 20, 40, 16
    ids = np.concatenate(
        [[*range(1, prompt + 1), *rng.integers(100, 10**6, own)] for _ in range(chats)]
    ).astype(np.int32)
    sequence = np.repeat(np.arange(chats), prompt + own)
    base = rng.standard_normal((chats, prompt + own, d)).astype(np.float32)
    base[:, :prompt] = base[0, :prompt]
    tuned = base.copy()
    # Only the prompt was changed, the same way in every chat.
    tuned[:, :prompt] += 5 * rng.standard_normal((prompt, d)).astype(np.float32)
    base, tuned = base.reshape(-1, d), tuned.reshape(-1, d)
    tuned += 0.01 * rng.standard_normal(tuned.shape).astype(np.float32)
    store = ag.PairedStore.from_arrays(
        base, tuned, tmp_path / "store", sequence_ids=sequence, token_ids=ids
    )
    assert len(load_sample(store, 0).base) == prompt + chats * own
    # One chat's worth of evidence does not stand out of the noise; forty copies of it did.
    assert not ag.find(store, seed=0)
