"""Claims: the rule of the verdicts by hand, and the whole command on two tiny seeds."""

import claim_trials
import claims
import pytest
from claim_page import build_claims
from claims import interval, measure_claims

from anaglyph.core.errors import InputError
from anaglyph.core.files import read_json, write_json


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ({"a": [1.0, 1.01], "b": [2.0, 2.0]}, "reproduced"),
        ({"a": [1.0, 1.0], "b": [-1.0, 1.1]}, "partly"),  # an interval that holds zero
        ({"a": [0.0, 0.0]}, "not reproduced"),
        ({"a": [1.0, None]}, "not reproduced"),  # one seed has no interval
        ({"a": [None, None]}, "not reproduced"),
    ],
)
def test_the_verdict_by_hand(checks, verdict):
    assert claims._claim("", {}, checks)["verdict"] == verdict


def test_an_interval_by_hand():
    found = interval([0.5, 0.7, None])
    # t(0.975, 1) = 12.706; the standard error of two values is half their distance.
    assert found["mean"] == pytest.approx(0.6)
    assert found["high"] - found["mean"] == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert found["seeds"] == 2
    assert interval([]) == {"mean": None, "low": None, "high": None, "seeds": 0}


def test_one_seed_is_refused():
    with pytest.raises(InputError, match="seeds"):
        measure_claims([0])


@pytest.fixture
def small(monkeypatch):
    """Two penalties instead of the whole search, on short data."""
    points = {name: claim_trials.SEARCH[name][:2] for name in claim_trials.SEARCH}
    points["decoupling"] = claim_trials.SEARCH["decoupling"][1:]
    pairs = {name: pair | {"tokens": 1000} for name, pair in claim_trials.PAIRS.items()}
    for module in (claim_trials, claims):
        monkeypatch.setattr(module, "SEARCH", points)
        monkeypatch.setattr(module, "PAIRS", pairs)


def test_the_command_writes_a_page_from_the_json_alone(small, tmp_path, monkeypatch, capsys):
    line = f"benchmarks/claims.py --out {tmp_path} --seeds 2 --first-seed 0 --tokens 2048"
    monkeypatch.setattr("sys.argv", line.split())
    claims.main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "claims.md")
    result = read_json(tmp_path / "claims.json")
    assert result["command"] == f"python {line}"
    assert len(result["claims"]) == 9
    assert {row["entrant"] for row in result["search"]} == {"l1", "batchtopk"}
    page = (tmp_path / "claims.md").read_text(encoding="utf-8")
    for claim in result["claims"]:
        assert f"| {claim['says']} | **{claim['verdict']}** |" in page
        assert all(figure["name"] in page for figure in claim["figures"] + claim["checks"])
    assert "nan" not in page

    result["claims"][0]["verdict"] = "changed in the JSON"
    write_json(tmp_path / "claims.json", result)
    again = build_claims(tmp_path / "claims.json", tmp_path / "again.md")
    assert "changed in the JSON" in again.read_text(encoding="utf-8")


def test_both_crosscoders_of_a_penalty_have_one_size_and_one_l0(small):
    runs = claim_trials.run_trials([0], tokens=2048).filter(pair="shrinkage")
    l1, batchtopk = (runs.filter(entrant=name) for name in ("l1", "batchtopk"))
    assert batchtopk["k"].to_list() == l1["l0"].to_list()
    assert set(batchtopk["latents"]) == set(l1["latents"])
