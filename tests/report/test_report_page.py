"""The page itself: one file, no network, hostile text inert, and it draws in a browser."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.core.errors import StoreError
from anaglyph.core.files import read_json, write_json
from anaglyph.report import build
from anaglyph.report.build import embed

from .fixture import make_run

BROWSER = shutil.which("chromium")
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><!--<script>{{style}}"
ADDRESSES = {
    "http://www.w3.org/2000/svg",  # the name of a namespace, never fetched
    "https://arxiv.org/abs/2504.02922",
    "https://www.lesswrong.com/posts/xmpauEXEerzYcJKNm/"
    "what-we-learned-trying-to-diff-base-and-chat-models-and-why",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("run"), latents=60, examples=9)
    build(folder)
    return folder


def text_of(folder: Path) -> str:
    return (folder / "report" / "index.html").read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def make_hostile(folder: Path) -> None:
    """Put markup wherever text of a model, a data set or a user can come in."""
    state = read_json(folder / "run.json")
    state |= {"tuned": HOSTILE, "data": [HOSTILE]}
    state["settings"]["train"]["options"] = {HOSTILE: HOSTILE}
    write_json(folder / "run.json", state)
    verdict = read_json(folder / "findings.json")
    verdict["reason"] = HOSTILE
    finding = verdict["findings"][0]
    finding["evidence"] = {HOSTILE: HOSTILE}
    for window in finding["examples"]:
        window["tokens"] = [HOSTILE] * len(window["tokens"])
        window["roles"] = [HOSTILE] * len(window["roles"])
    write_json(folder / "findings.json", verdict)


@pytest.mark.parametrize("difference", [True, False])
def test_the_page_is_one_file_that_asks_nothing_of_a_network(tmp_path: Path, difference: bool):
    folder = make_run(tmp_path / "run", difference=difference, latents=30, examples=5)
    path = build(folder)
    assert path == folder / "report" / "index.html"
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    page = path.read_text(encoding="utf-8")
    assert set(re.findall(r"""https?://[^\s"'<)]+""", page)) == ADDRESSES
    assert not re.search(r"<(link|img|iframe|object|base)\b|@import|url\(|fetch\(|src=", page)
    assert data_of(page)["verdict"]["verdict"].startswith("difference" if difference else "no")


def test_the_policy_allows_this_script_and_no_other(run: Path):
    page = text_of(run)
    script = re.search(r"<script>(.*?)</script>", page, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert policy in page
    assert "{{" not in page


def test_building_again_gives_the_same_bytes(run: Path):
    before = text_of(run)
    build(run)
    assert text_of(run) == before


def test_hostile_text_stays_text(tmp_path: Path):
    folder = make_run(tmp_path / "run", latents=20, examples=3)
    make_hostile(folder)
    build(folder)
    page = text_of(folder)
    assert page.count("</script") == 2
    assert "<img" not in page
    assert "<!--" not in page
    finding = data_of(page)["findings"][0]
    assert finding["evidence"] == {HOSTILE: HOSTILE}
    assert set(finding["windows"][0]["x"]) == {HOSTILE}


@given(st.text(st.characters(codec=None, categories=None), max_size=30))
def test_embedded_text_comes_back_and_cannot_leave_its_element(text: str):
    embedded = embed({"text": text})
    assert "<" not in embedded
    assert json.loads(embedded.encode().decode()) == {"text": text}


def test_undefined_numbers_are_refused_rather_than_written():
    with pytest.raises(ValueError, match="Out of range float"):
        embed(float("nan"))


def test_a_large_run_makes_a_page_that_can_be_mailed(tmp_path: Path):
    folder = make_run(tmp_path / "run", latents=8192, examples=120)
    assert build(folder).stat().st_size < 3_000_000


def test_damage_leaves_the_earlier_page_alone(tmp_path: Path):
    folder = make_run(tmp_path / "run", latents=20, examples=3)
    build(folder)
    before = text_of(folder)
    (folder / "findings.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match=r"findings\.json"):
        build(folder)
    assert text_of(folder) == before
    assert [file.name for file in (folder / "report").iterdir()] == ["index.html"]


def open_in_browser(page: Path, profile: Path, fragment: str = "") -> str:
    """Return the document as it stands after its scripts ran."""
    quiet = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"]
    quiet += ["disable-background-networking", "disable-component-update", "disable-sync"]
    command = [str(BROWSER), *(f"--{flag}" for flag in quiet), f"--user-data-dir={profile}"]
    command += ["--window-size=1200,900", "--dump-dom", page.as_uri() + fragment]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    return done.stdout.decode()


browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")


@browser
def test_a_browser_draws_the_findings_and_opens_the_linked_latent(run: Path, tmp_path: Path):
    page = run / "report" / "index.html"
    document = open_in_browser(page, tmp_path, "#latent=crosscoder/3")
    assert 'data-ready="true"' in document
    assert "data-error" not in document
    assert "<h1>The models differ</h1>" in document
    assert document.count('<article class="card"') == 3
    assert "94%" in document
    assert document.count('class="token') > 200
    # A null effect interval, frequency and KL are dashes, not zeros, NaN or null.
    assert not re.search(r">(NaN|null|undefined|Infinity)[%<]", document)
    assert '<div class="big">–</div>' in document
    detail = re.search(r'id="detail".*?<h3>(.*?)</h3>', document, re.S)
    assert detail is not None
    assert ">crosscoder 3</a>" in detail[1]
    assert len(re.findall(r'<circle class="dot', document)) > 30


@browser
def test_a_browser_shows_no_difference_as_an_answer(tmp_path: Path):
    folder = make_run(tmp_path / "run", difference=False, latents=30, examples=4)
    document = open_in_browser(build(folder), tmp_path / "profile")
    assert 'data-ready="true"' in document
    assert "data-error" not in document
    assert "<h1>No difference found</h1>" in document
    assert '<article class="card"' not in document
    assert "There is no gap to explain" in document


@browser
def test_a_browser_says_in_every_section_what_is_missing(tmp_path: Path):
    folder = tmp_path / "run"
    make_run(folder, latents=30, examples=5)
    state = read_json(folder / "run.json")
    shutil.rmtree(folder)
    write_json(folder / "run.json", state | {"stages": {}})
    document = open_in_browser(build(folder), tmp_path / "profile")
    assert 'data-ready="true"' in document
    assert "data-error" not in document
    assert "<h1>No verdict yet</h1>" in document
    for sentence in (
        "findings.json is missing",
        "No intervention was measured",
        "No dictionary was trained",
        "There are no latents to show",
        "run tokens, pca, weights, stitch, lens or amplify",
    ):
        assert sentence in document


@browser
def test_a_browser_does_not_run_hostile_text(tmp_path: Path):
    folder = make_run(tmp_path / "run", latents=20, examples=3)
    make_hostile(folder)
    document = open_in_browser(build(folder), tmp_path / "profile")
    assert 'data-ready="true"' in document
    assert "data-error" not in document
    assert "<img" not in document
    assert "<title>owned" not in document
    assert "&lt;img src=x" in document
