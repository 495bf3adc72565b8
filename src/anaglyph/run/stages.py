"""The stages of a run: each a function of the run that makes one artifact and vouches for it.

A stage whose key is recorded, with its files in place, hands back what is on disk. The key holds
everything that determines the artifact and the keys of the artifacts it reads, and nothing else: a
change makes every later stage that depends on it run again, and nothing finished is computed twice.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import polars as pl
import torch

from anaglyph.behaviour.behave import behaviour_of
from anaglyph.behaviour.link import link
from anaglyph.causal import Judged, causal_tables, layer_sweep
from anaglyph.core.devices import numbers_of, resolve_device
from anaglyph.core.errors import StoreError
from anaglyph.core.files import (
    digest,
    json_text,
    read_parquet,
    write_json,
    write_parquet,
    write_text,
)
from anaglyph.core.processes import of_several
from anaglyph.core.progress import Tell, unheard, within
from anaglyph.core.schemas import Behaviour, Links, Verdict, read_behaviour, write_verdict
from anaglyph.dictionaries import Dictionary, train
from anaglyph.findings import difference_is_nil, first_look, search
from anaglyph.latents import candidates, score, top_examples
from anaglyph.report import build
from anaglyph.run.folder import ELICITED, LAYERS
from anaglyph.run.layers import chosen_layers
from anaglyph.run.run import Run, name_of
from anaglyph.run.streaming import outputs_of, train_streamed
from anaglyph.run.tables import keep_tables
from anaglyph.store import PairedStore
from anaglyph.store.format import read_manifest
from anaglyph.store.writer import discard, drop_damaged
from anaglyph.subject import Subject

VERSIONS = {"behave": 7, "train": 5, "score": 8, "causal": 7, "find": 15, "link": 3}
"""Raised by hand when a stage's code changes what it writes for the same settings."""


P = ParamSpec("P")
T = TypeVar("T")


def _one_writer(stage: Callable[Concatenate[Run, P], T]) -> Callable[Concatenate[Run, P], T]:
    """Let a stage lock the run folder, before it looks which stages are finished."""

    @wraps(stage)
    def locked(run: Run, *args: P.args, **kwargs: P.kwargs) -> T:
        with run.folder.writing():
            return stage(run, *args, **kwargs)

    return locked


@_one_writer
def diff(run: Run, tell: Tell = unheard) -> None:
    """Carry out every stage that is not finished yet, and tell what each says as it ends."""
    training, methods, subject = run.settings.train, run.methods, run.subject
    names = [name_of(method, training.sparsity) for method in methods]
    steps: dict[str, Callable[[], object]] = {
        "collect": lambda: collect(run),
        "behave": lambda: behave(run),
        "train": lambda: train_all(run, methods),
        "score": lambda: [score_one(run, name) for name in names],
        "find": lambda: find(run),
        "link": lambda: link_claims(run),
        "causal": lambda: causal(run, names),
        "report": lambda: report(run),
    }
    if not run.settings.behave.behaviour:
        del steps["behave"]
    if not subject.pair.related:
        del steps["causal"]
    progress = subject.progress
    try:
        for number, (name, step) in enumerate(steps.items(), 1):
            if name in OF_DICTIONARIES and difference_is_nil(subject.store):
                continue
            subject.progress = within(progress, f"{number}/{len(steps)} {name}")
            said = _first_words(run, step())
            if said is not None:
                tell(said)
    finally:
        subject.progress = progress


OF_DICTIONARIES = ("train", "score", "causal")
"""Stages that are left out where the activations do not differ."""


def _first_words(run: Run, made: object) -> str | None:
    """Return what a stage made says of the models, while other stages are still to come."""
    if isinstance(made, Behaviour | Verdict):
        return made.headline
    if isinstance(made, PairedStore) and "find" not in run.folder.state.stages:
        return first_look(run.subject, run.settings.find)
    return None


@_one_writer
def collect(run: Run) -> PairedStore:
    """Run both models over the text and store their activations."""
    # The store keys and resumes itself; another run's activations are refused, not replaced.
    start, folder = time.monotonic(), run.path / "activations"
    if "auto" in run.settings.collect.layers:
        chosen_layers(run.subject, run.path)  # measured again only if the file is damaged
    if "collect" in run.folder.state.stages:
        try:
            read_manifest(folder)
        except StoreError:
            discard(folder)  # made by this run, so it can be made again
        else:
            if run.folder.thorough:
                drop_damaged(folder)
    store = run.subject.collect()
    seconds = time.monotonic() - start
    outputs = ["activations/manifest.json"]
    if "corpus" in vars(run.subject) and run.subject.corpus.reading is not None:
        text, path = json_text(run.subject.corpus.reading.as_json()), run.path / "reading.json"
        if not path.is_file() or path.read_bytes() != text.encode("utf-8", "backslashreplace"):
            write_text(path, text)
    kept = ("reading.json", ELICITED, LAYERS)
    outputs += [name for name in kept if (run.path / name).is_file()]
    run.folder.record("collect", _key_of_layers(store, run.subject.layers), seconds, outputs)
    return store


def _key_of_layers(store: PairedStore, layers: Sequence[int]) -> str:
    """Return the store's key; of several layers it says also which is that of the dictionaries."""
    return store.key if len(layers) == 1 else digest({"store": store.key, "layers": list(layers)})


@_one_writer
def behave(run: Run, prompts: Sequence[str] | None = None) -> Behaviour:
    """Let both models answer prompts, and say what the tuned model does differently.

    Links to findings are another stage's (`link_claims`); `Run.behaviour` joins the two.
    """
    settings, state = run.settings, run.folder.state
    key = digest(
        {
            "models": state.fingerprints,
            "prompts": None if prompts is None else list(prompts),
            "settings": settings.behave.model_dump(mode="json"),
            "rate": settings.find.rate,
            "seed": settings.seed,
            "threads": torch.get_num_threads(),
            "computed": run.subject.computed,
            "code": VERSIONS["behave"],
        }
    )
    if not run.folder.is_done("behave", key):
        with run.folder.stage("behave", key, ["behaviour.json"]):
            said = behaviour_of(
                run.subject.pair,
                settings.behave,
                prompts,
                rate=settings.find.rate,
                seed=settings.seed,
                progress=run.subject.progress,
            )
            write_json(run.path / "behaviour.json", said.model_dump(mode="json"))
    return read_behaviour(run.path / "behaviour.json", linked=False)


@_one_writer
def link_claims(run: Run) -> None:
    """Say which findings carry the verified claims; nothing is done without both."""
    subject = run.subject
    if not {"behave", "find"} <= set(run.folder.state.stages):
        return
    run.folder.check_stage("behave")
    said = read_behaviour(run.path / "behaviour.json", linked=False)
    if not said.claims or not run.verdict.findings or not subject.pair.related:
        return
    key = digest(
        {
            "behave": run.folder.key_of("behave"),
            "find": run.folder.key_of("find"),
            "computed": run.subject.computed,
            "code": VERSIONS["link"],
        }
    )
    if not run.folder.is_done("link", key):
        with run.folder.stage("link", key, ["links.json"]):
            links = link(
                subject.pair,
                said.claims,
                run.verdict.findings,
                subject.layer,
                run.settings.behave.reply_tokens,
                progress=subject.progress,
            )
            write_json(run.path / "links.json", Links(links=tuple(links)).model_dump(mode="json"))


@_one_writer
def train_one(run: Run, method: str) -> Dictionary:
    """Train one dictionary on the training sequences."""
    train_all(run, [method])
    return run.dictionary(name_of(method, run.settings.train.sparsity))


def train_all(run: Run, methods: Sequence[str]) -> None:
    """Train dictionaries: one after the other from the store, or all at once from a stream."""
    settings, collecting, seed = run.settings.train, run.settings.collect, run.settings.seed
    streamed = collecting.store == "stream"
    made_of: dict[str, Any] = {"store": run.folder.key_of("collect")}
    if streamed:
        made_of |= {"text": run.folder.state.corpus.get("text"), "window": collecting.window}
    open_ones: dict[str, tuple[str, str]] = {}
    for method in methods:
        key = digest(
            made_of
            | {
                "settings": settings.model_dump(exclude={"methods"}),
                "method": method,
                "seed": seed,
                "threads": torch.get_num_threads(),
                "computed": numbers_of(resolve_device(run.settings.device)),
                **of_several(),
                "models": run.subject.computed if streamed else None,
                "code": VERSIONS["train"],
            }
        )
        name = name_of(method, settings.sparsity)
        if not run.folder.is_done(f"train/{name}", key):
            open_ones[name] = (method, key)
    if streamed:
        train_streamed(run, open_ones)
        return
    for name, (method, key) in open_ones.items():
        folder = run.path / "dictionaries" / name
        with run.folder.stage(f"train/{name}", key, outputs_of(name)):
            dictionary = train(
                run.subject.store,
                method,
                **settings.model_dump(exclude={"methods"}),
                seed=seed,
                device=run.settings.device,
                checkpoint=folder / "checkpoint",
                progress=run.subject.progress,
            )
            dictionary.save(folder)


@_one_writer
def score_one(run: Run, name: str) -> pl.DataFrame:
    """Make a dictionary's latent table and the examples of its strongest latents."""
    stage, shown = f"score/{name}", run.settings.report.shown_latents
    key = digest(
        {
            "dictionary": run.folder.key_of(f"train/{name}"),
            "seed": run.settings.seed,
            "computed": numbers_of(resolve_device(run.settings.device)),
            "shown": shown,
            "code": VERSIONS["score"],
        }
    )
    if not run.folder.is_done(stage, key):
        outputs = [f"latents/{name}.parquet", f"examples/{name}.json"]
        with run.folder.stage(stage, key, outputs):
            dictionary, subject = run.dictionary(name), run.subject
            table = score(
                dictionary, subject.store, seed=run.settings.seed, progress=subject.progress
            )
            write_parquet(run.path / outputs[0], table)
            found = latent_examples(subject, dictionary, candidates(table, shown))
            write_json(run.path / outputs[1], found)
    return run.table(name)


@_one_writer
def causal(run: Run, names: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Measure the KL that each dictionary recovers, and its strongest latents one at a time.

    Dictionaries that are not measured yet share one pass over the text. Written for each are one
    row an intervention, judged at the first of the positions and put into the first model; the rows
    of all other positions and of the other direction; one row a latent, each alone.
    """
    settings = run.settings.causal
    outputs = {
        name: [f"causal/{name}{end}.parquet" for end in ("", ".places", ".latents")]
        for name in names
    }
    keys, judged = {}, {}
    for name in names:
        table = score_one(run, name)
        keys[name] = digest(
            {
                "table": run.folder.key_of(f"score/{name}"),
                "settings": settings.model_dump(mode="json"),
                "seed": run.settings.seed,
                "computed": run.subject.computed,
                "code": VERSIONS["causal"],
            }
        )
        if not run.folder.is_done(f"causal/{name}", keys[name]):
            alone = candidates(table, settings.widened().single_latents)
            judged[name] = Judged(run.dictionary(name), table, alone)
    if judged:
        with ExitStack() as stages:
            for name in judged:
                stages.enter_context(run.folder.stage(f"causal/{name}", keys[name], outputs[name]))
            for name, (whole, alone) in causal_tables(run.subject, judged, settings).items():
                first = (pl.col("positions") == settings.positions[0]) & (
                    pl.col("into") == settings.into[0]
                )
                parts = (whole.filter(first), whole.filter(~first), alone)
                for output, part in zip(outputs[name], parts, strict=True):
                    write_parquet(run.path / output, part)
    return {name: read_parquet(run.path / outputs[name][0]) for name in names}


@_one_writer
def sweep(run: Run, layers: Sequence[int | float]) -> pl.DataFrame:
    """Put edits that need no dictionary in at several layers; kept as `direct/layers.parquet`."""
    subject, settings = run.subject, run.settings.causal
    resolved = [subject.pair.resolve_layer(layer) for layer in layers]
    key = settings.model_dump(mode="json") | {"layers": resolved, "seed": run.settings.seed}
    key["computed"] = run.subject.computed
    tables = keep_tables(
        run.folder,
        "layers",
        key,
        lambda: {"layers": layer_sweep(subject, resolved, settings)},
    )
    return tables["layers"]


@_one_writer
def find(run: Run) -> Verdict:
    """Say what differs, from the activations, the difference dictionaries and the models."""
    starts = run.difference_dictionaries()
    key = digest(
        {
            "store": run.folder.key_of("collect"),
            "dictionaries": {name: run.folder.key_of(f"train/{name}") for name in starts},
            "settings": run.settings.find.model_dump(mode="json"),
            "seed": run.settings.seed,
            "threads": torch.get_num_threads(),
            "computed": run.subject.computed,
            "code": VERSIONS["find"],
        }
    )
    if not run.folder.is_done("find", key):
        with run.folder.stage("find", key, ["findings.json"]):
            verdict = search(run.subject, run.settings.find, starts)
            write_verdict(run.path / "findings.json", verdict)
    return run.verdict


@_one_writer
def report(run: Run) -> Path:
    """Write the page from what finished stages wrote, after a check of it.

    Other files, such as those of a stage that was killed, are not shown.

    Raises:
        StoreError: A file is damaged; the message names it and the command that repairs it.
    """
    start, stages = time.monotonic(), run.folder.state.stages
    read = [name for name in stages if name != "report"]
    for name in read:
        run.folder.check_stage(name)
    page = build(run.path, {output for name in read for output in stages[name].outputs})
    output = page.relative_to(run.path).as_posix()
    run.folder.record("report", run.folder.key_of_page(), time.monotonic() - start, [output])
    return page


def latent_examples(
    subject: Subject, dictionary: Dictionary, latents: Sequence[int], n: int | None = None
) -> list[dict[str, Any]]:
    """Return the latents' strongest windows, with their tokens as a person reads them."""
    more = {} if n is None else {"n": n}
    found = top_examples(dictionary, subject.store, latents, progress=subject.progress, **more)
    for latent in found:
        for example in latent["examples"]:
            example["tokens"] = subject.pair.token_strings(example.pop("token_ids"))
    return found
