"""A span of directions taken from the other model, against the whole swap and by hand."""

import numpy as np
import pytest
import torch
from causal_cases import subject_of

from anaglyph.behaviour.generate import continue_prompts, side_stepper
from anaglyph.causal.span import basis_of, span_recovered, span_stepper
from anaglyph.core.errors import InputError
from anaglyph.corpus import TokenCorpus
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject

LAYER = 1


def prompts(count: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(3, 40, length).astype(np.int64) for length in range(4, 4 + count)]


def written(make) -> list[list[int]]:
    return continue_prompts(make, prompts(), new_tokens=6, ends=[])


def test_a_basis_is_orthonormal_and_leaves_out_what_is_dependent():
    rows = [torch.tensor([1.0, 1, 0]), torch.tensor([2.0, 2, 0]), torch.tensor([0.0, 3, 0])]
    basis = basis_of(rows)
    assert basis.shape == (2, 3)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2))
    torch.testing.assert_close(basis.T @ basis, torch.diag(torch.tensor([1.0, 1, 0])))


@pytest.mark.parametrize("rows", [[], [torch.zeros(3)], [torch.tensor([float("nan"), 1, 1])]])
def test_no_direction_is_refused(rows: list[torch.Tensor]):
    with pytest.raises(InputError, match="direction"):
        basis_of(rows)


def test_all_directions_recover_everything_and_one_less(pair: ModelPair, corpus: TokenCorpus):
    subject = subject_of(pair, corpus)
    whole = span_recovered(subject, torch.eye(pair.d_tuned), max_tokens=400)
    one = span_recovered(subject, torch.eye(pair.d_tuned)[:1], max_tokens=400)
    assert whole == pytest.approx(1, abs=1e-3)
    assert one is not None
    assert one < 0.9


def test_what_is_kept_unpatched_saves_whole_runs_and_changes_nothing(
    pair: ModelPair, corpus: TokenCorpus, monkeypatch: pytest.MonkeyPatch
):
    whole_runs = []
    run = pair.logits
    monkeypatch.setattr(pair, "logits", lambda *args: (whole_runs.append(args), run(*args))[1])
    plainly, kept = subject_of(pair, corpus), subject_of(pair, corpus)
    kept.keep_predictions = True

    def recovered(count: int, subject: Subject, tokens: int = 400) -> float | None:
        return span_recovered(subject, torch.eye(pair.d_tuned)[:count], max_tokens=tokens)

    plain = [recovered(count, plainly) for count in (1, 8)]
    each = len(whole_runs) // 2
    assert each > 0
    whole_runs.clear()
    assert [recovered(count, kept) for count in (1, 8)] == plain
    assert len(whole_runs) == each
    assert recovered(1, kept, tokens=20) == recovered(1, plainly, tokens=20)  # less text
    assert len(whole_runs) == 3 * each
    assert recovered(1, kept) == plain[0]


@pytest.mark.parametrize("into", ["base", "tuned"])
def test_a_span_with_nothing_in_it_changes_nothing(pair: ModelPair, into):
    nothing = torch.zeros(1, pair.d_tuned)
    assert written(lambda: span_stepper(pair, into, LAYER, nothing)) == written(
        lambda: side_stepper(pair, into)
    )


@pytest.mark.parametrize(("into", "other"), [("base", "tuned"), ("tuned", "base")])
def test_each_step_is_a_full_forward_with_the_other_models_part(pair: ModelPair, into, other):
    basis = basis_of([torch.randn(pair.d_tuned, generator=torch.Generator().manual_seed(1))])
    prompt = torch.from_numpy(prompts(1)[0])[None]
    step = span_stepper(pair, into, LAYER, basis)
    ids, new = prompt, prompt
    for _ in range(4):
        mask = torch.ones_like(ids)
        positions = torch.arange(ids.shape[1])[None, -new.shape[1] :]
        with torch.no_grad():
            got = step(new, mask, positions)
            own = pair.run_to(into, ids, mask, [LAYER])[LAYER]
            there = pair.run_to(other, ids, mask, [LAYER])[LAYER]
            mixed = own + (there - own) @ basis.T @ basis
            # The tokens before were patched as well when they were read.
            expected = pair.run_from(into, LAYER, mixed, ids, mask)[:, -1]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        new = got.argmax(-1, keepdim=True)
        ids = torch.cat([ids, new], dim=1)
