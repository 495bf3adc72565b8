"""Every form of the grammar of directions gives its vector, and every wrong one says why."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from causal_cases import LAYER, WIDTH, make_dictionary

from anaglyph.behaviour.directions import Direction, Held, direction_file, read_direction
from anaglyph.core.errors import InputError
from anaglyph.core.schemas import Finding, Verdict
from anaglyph.dictionaries import Dictionary
from anaglyph.store import DifferenceSpace

SPACE = DifferenceSpace(np.arange(WIDTH, dtype=float), np.eye(WIDTH)[:2], np.array([3.0, 2.0]))


def unit(place: int) -> tuple[float, ...]:
    return tuple(float(place == other) for other in range(WIDTH))


def finding(**changes: Any) -> Finding:
    facts: dict[str, Any] = {
        "kind": "scaled",
        "direction_base": unit(0),
        "direction_tuned": unit(1),
        "effect": 3.0,
        "evidence": {"beta_base": 0.5, "beta_tuned": 1.5},
    }
    return Finding(**(facts | changes))


FINDINGS = (
    finding(),
    finding(kind="new", direction_base=None),
    finding(kind="mean-shift", direction_base=None, effect=7.0, evidence={}),
    finding(evidence={}),
)


@pytest.fixture
def run() -> Held:
    dic = make_dictionary("crosscoder")
    table = pl.DataFrame({"max_activation": [2.5, None, *[1.0] * (dic.n_latents - 2)]})
    verdict = Verdict(
        verdict="difference found", reason="they differ", rate=0.1, seed=0, findings=FINDINGS
    )

    def trained(name: str) -> Dictionary:
        if name != "sparse":
            raise InputError(f"no dictionary {name!r}")
        return dic

    return Held(lambda: SPACE, trained, lambda _name: table, lambda: verdict)


def test_directions_have_units():
    dic = make_dictionary("crosscoder")
    direction = Direction.latent(dic, LAYER, 3, 2.5)
    assert torch.equal(direction.vector, (dic.decoder[1][3] - dic.decoder[0][3]) * 2.5)
    assert torch.equal(Direction.mean_shift(SPACE, 0).vector, torch.arange(WIDTH).float())
    second = Direction.component(SPACE, 0, 1).vector
    assert second.tolist() == [0.0, 2.0, *[0.0] * (WIDTH - 2)]
    with pytest.raises(InputError, match="latent 12 is out of range"):
        Direction.latent(dic, LAYER, 12, 1.0)
    with pytest.raises(InputError, match="never fired"):
        Direction.latent(dic, LAYER, 3, 0.0)
    with pytest.raises(InputError, match="pca:2 is out of range"):
        Direction.component(SPACE, 0, 2)


def test_what_a_run_has(run):
    dic = run.dictionary("sparse")
    wanted = {
        "mean": torch.arange(WIDTH).float(),
        "pca:0": 3 * torch.tensor(unit(0)),
        "latent:sparse/0": 2.5 * (dic.decoder[1][0] - dic.decoder[0][0]),
        "finding:1": 1.5 * torch.tensor(unit(0)),
        "finding:2": 1.5 * torch.tensor(unit(1)),
        "finding:3": 7 * torch.tensor(unit(1)),
    }
    for text, vector in wanted.items():
        found = read_direction(text, LAYER, run)
        assert (found.name, found.layer) == (text, LAYER)
        torch.testing.assert_close(found.vector, vector)
        assert direction_file(text) is None
    # A finding that both models have is added as the steered model has it.
    tuned = read_direction("finding:1", LAYER, run, into="tuned").vector
    assert torch.equal(tuned, 1.5 * torch.tensor(unit(1)))


def test_files(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(4))
    found = read_direction(str(tmp_path / "one.npy"), 2)
    assert (found.layer, found.vector.tolist()) == (2, [0.0, 1.0, 2.0, 3.0])
    assert direction_file(str(tmp_path / "one.npy")) == tmp_path / "one.npy"
    table = pl.DataFrame({"direction": [[1.0, 2.0], None]})
    table.write_parquet(tmp_path / "rows.parquet")
    assert read_direction(f"{tmp_path}/rows.parquet:0", 2).vector.tolist() == [1.0, 2.0]
    assert direction_file(f"{tmp_path}/rows.parquet:0") == tmp_path / "rows.parquet"
    np.save(tmp_path / "two.npy", np.zeros((2, 3)))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    (tmp_path / "broken.npy").write_bytes(b"")
    table.drop("direction").with_columns(x=1).write_parquet(tmp_path / "other.parquet")
    for name, words in (
        ("two.npy", r"shape \(2, 3\)"),
        ("text.npy", "one vector"),
        ("broken.npy", "cannot be read"),
        ("nowhere.npy", "cannot be read"),
        ("rows.parquet:1", "has no direction"),
        ("rows.parquet:2", "has 2 rows"),
        ("other.parquet:0", "column of directions"),
        ("nowhere.parquet:0", "column of directions"),
        ("rows.parquet", "is unknown: use latent:NAME/7"),
        ("rows.parquet:x", "is unknown: use latent:NAME/7"),
    ):
        with pytest.raises(InputError, match=words):
            read_direction(str(tmp_path / name), 0)


def test_wrong_names_say_why(run):
    for text, words in (
        ("latent:sparse/12", "out of range"),
        ("latent:sparse/1", "never fired"),
        ("latent:other/1", "no dictionary 'other'"),
        ("latent:sparse", "use latent:NAME/7"),
        ("latent:sparse/x", "use latent:NAME/7"),
        ("mean:1", "use latent:NAME/7"),
        ("pca:-1", "use latent:NAME/7"),
        ("pca:2", "out of range"),
        ("finding:0", "there is no finding 0"),
        ("finding:5", "the run has 4"),
        ("finding:4", "strength of this finding is not known"),
        ("", "use latent:NAME/7"),
    ):
        with pytest.raises(InputError, match=words):
            read_direction(text, LAYER, run)
    for text in ("mean", "pca:0", "latent:sparse/0", "finding:1"):
        with pytest.raises(InputError, match="name a run folder"):
            read_direction(text, LAYER)
