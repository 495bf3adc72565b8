"""Each stage of a run: what it reads and writes, and the key that vouches for its artifacts.

A stage whose key is recorded, with its files in place, hands back what is on disk. The key holds
everything that determines the artifact and the key of the stage before it, so a change anywhere
upstream makes every later stage run again, and nothing finished is computed twice.
"""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch

from anaglyph.core.errors import InputError
from anaglyph.core.files import atomic_path, digest, write_json
from anaglyph.core.progress import Progress, silent
from anaglyph.core.settings import CausalSettings, DiffConfig, Settings
from anaglyph.core.threads import set_threads
from anaglyph.corpus import TokenCorpus, load_corpus, read_documents
from anaglyph.dictionaries import Dictionary, get_method, train
from anaglyph.findings import (
    Verdict,
    difference_is_nil,
    read_verdict,
    write_verdict,
)
from anaglyph.latents import candidates, score, top_examples
from anaglyph.pair import ModelPair
from anaglyph.report import build
from anaglyph.run.causal import causal_tables
from anaglyph.run.folder import RunFolder
from anaglyph.run.verdict import verdict_of
from anaglyph.store import DifferenceSpace, PairedStore, collect
from anaglyph.subject import Subject

# Raised by hand when a stage's code changes what it writes for the same settings.
VERSIONS = {"train": 5, "score": 6, "causal": 4, "find": 11}
# Latents of each dictionary that get examples: those that carry most of the difference.
SHOWN_LATENTS = 60


class Workbench:
    """A run folder with its models, corpus and store at hand, each loaded when first needed."""

    def __init__(
        self, run: RunFolder, progress: Progress = silent, pair: ModelPair | None = None
    ) -> None:
        self.run = run
        self.progress = progress
        self.config = run.state.config
        if pair is not None:
            self.pair = pair

    @classmethod
    def begin(
        cls,
        base: str | Path,
        tuned: str | Path,
        data: str | Path | Sequence[str | Path],
        out: str | Path,
        config: DiffConfig,
        progress: Progress = silent,
    ) -> "Workbench":
        """Start a run, or continue the one in `out`.

        Raises:
            InputError: The data, the layer or the folder cannot be used.
            ModelError: A model cannot be loaded, or the two do not fit.
        """
        sources = [data] if isinstance(data, str | Path) else list(data)
        RunFolder.check(out)
        for method in config.methods:
            get_method(method, config.options)
        set_threads(config.threads)
        pair = ModelPair.load(base, tuned)
        corpus = _corpus(sources, pair, config)
        run = RunFolder.begin(
            out,
            base=str(base),
            tuned=str(tuned),
            data=[str(source) for source in sources],
            layer=pair.resolve_layer(config.layer),
            n_layers=pair.n_layers,
            config=config,
            fingerprints=pair.fingerprints,
            corpus={
                "fingerprint": corpus.fingerprint,
                "sequences": corpus.n_sequences,
                "heldout_sequences": int(corpus.heldout.sum()),
                "tokens": corpus.n_tokens,
                "context": corpus.context,
            },
            threads=torch.get_num_threads(),
        )
        bench = cls(run, progress, pair)
        bench.corpus = corpus
        return bench

    @classmethod
    def reopen(cls, path: str | Path, progress: Progress = silent, **overrides: Any) -> "Workbench":
        """Open a run that `begin` made; overrides that are not None replace its settings.

        Raises:
            InputError: There is no run in the folder, or a setting has a bad value.
        """
        run = RunFolder.open(path)
        bench = cls(run, progress)
        changes = {name: value for name, value in overrides.items() if value is not None}
        if changes:
            bench.config = run.state.config.with_changes(**changes)
        set_threads(bench.config.threads)
        return bench

    @cached_property
    def pair(self) -> ModelPair:
        """Both models, checked to be those that the run was made with."""
        state = self.run.state
        pair = ModelPair.load(state.base, state.tuned)
        if pair.fingerprints != state.fingerprints:
            raise InputError(
                f"{state.base} or {state.tuned} has changed since {self.run.path} was made"
            )
        return pair

    @cached_property
    def corpus(self) -> TokenCorpus:
        """What the models read, checked to be what the run was made with."""
        state = self.run.state
        corpus = _corpus(state.data, self.pair, state.config)
        if corpus.fingerprint != state.corpus["fingerprint"]:
            raise InputError(
                f"the data ({', '.join(state.data)}) has changed since {self.run.path} was made"
            )
        return corpus

    @cached_property
    def store(self) -> PairedStore:
        """The finished activations."""
        self.run.key_of("collect")
        return PairedStore.open(self.run.path / "activations")

    @cached_property
    def difference_space(self) -> DifferenceSpace:
        """Mean and principal components of h_tuned - h_base over the training tokens."""
        return self.subject.space

    @cached_property
    def subject(self) -> Subject:
        """The same parts, for the measurements."""
        return Subject.of(
            pair=self.pair,
            corpus=self.corpus,
            store=self.store,
            settings=Settings(seed=self.config.seed),
            progress=self.progress,
        )

    @property
    def causal_settings(self) -> CausalSettings:
        """The settings of the causal stage."""
        names = set(CausalSettings.model_fields) & set(DiffConfig.model_fields)
        values = self.config.model_dump(include=names)
        return Settings().changed(**values).causal

    @property
    def report_path(self) -> Path:
        """Where the page is, or will be."""
        return self.run.path / "report" / "index.html"

    @property
    def verdict(self) -> Verdict:
        """What `find` wrote."""
        self.run.key_of("find")
        return read_verdict(self.run.path / "findings.json")

    def name_of(self, method: str) -> str:
        """Return the name of a method's dictionary in this run."""
        sparsity = self.config.sparsity
        return method if sparsity == "batchtopk" else f"{method}-{sparsity}"

    def names(self, wanted: Sequence[str] | None = None) -> list[str]:
        """Return the run's trained dictionaries, or check that the wanted ones are trained.

        Raises:
            InputError: A name is not among them, or there are none.
        """
        trained = self.trained
        if not trained:
            raise InputError(f"{self.run.path} has no trained dictionary; run `train` first")
        for name in wanted or ():
            if name not in trained:
                raise InputError(f"no dictionary {name!r} in {self.run.path}: {', '.join(trained)}")
        return list(wanted or trained)

    @property
    def trained(self) -> list[str]:
        """Names of the run's finished dictionaries."""
        stages = self.run.state.stages
        return [stage.removeprefix("train/") for stage in stages if stage.startswith("train/")]

    @property
    def is_nil(self) -> bool:
        """Whether the activations differ by no more than numerical noise."""
        return difference_is_nil(self.store)

    def dictionary(self, name: str) -> Dictionary:
        """Load a trained dictionary."""
        self.run.key_of(f"train/{name}")
        return Dictionary.load(self.run.path / "dictionaries" / name)

    def collect(self) -> PairedStore:
        """Run both models over the corpus and store their activations."""
        # The store keys and resumes itself; another run's activations are refused, not replaced.
        start = time.monotonic()
        self.store = collect(
            self.pair,
            self.corpus,
            [self.run.state.layer],
            self.run.path / "activations",
            dtype=self.config.dtype,
            progress=self.progress,
        )
        seconds = time.monotonic() - start
        self.run.record("collect", self.store.key, seconds, ["activations/manifest.json"])
        return self.store

    def train(self, method: str) -> Dictionary:
        """Train one dictionary on the training sequences."""
        name, config = self.name_of(method), self.config
        settings = {
            "method": method,
            "sparsity": config.sparsity,
            "latents": config.latents,
            "k": config.k,
            "tokens": config.tokens,
            "batch": config.batch,
            "seed": config.seed,
            "lr": config.lr,
            "mu": config.mu,
            "anneal": config.anneal,
            "options": config.options,
        }
        key = digest(
            {
                "store": self.store.key,
                "settings": settings,
                "threads": torch.get_num_threads(),
                "code": VERSIONS["train"],
            }
        )
        folder = self.run.path / "dictionaries" / name
        if not self.run.is_done(f"train/{name}", key):
            outputs = [
                f"dictionaries/{name}/{file}" for file in ("config.json", "weights.safetensors")
            ]
            with self.run.stage(f"train/{name}", key, outputs):
                optional = {key: value for key, value in settings.items() if value is not None}
                dictionary = train(
                    self.store,
                    **optional,
                    checkpoint=folder / "checkpoint",
                    progress=self.progress,
                )
                dictionary.save(folder)
        return self.dictionary(name)

    def score(self, name: str) -> pl.DataFrame:
        """Make a dictionary's latent table and the examples of its foremost latents."""
        stage, path = f"score/{name}", self.run.path / "latents" / f"{name}.parquet"
        key = digest(
            {
                "dictionary": self.run.key_of(f"train/{name}"),
                "seed": self.config.seed,
                "code": VERSIONS["score"],
            }
        )
        if not self.run.is_done(stage, key):
            outputs = [f"latents/{name}.parquet", f"examples/{name}.json"]
            with self.run.stage(stage, key, outputs):
                dictionary = self.dictionary(name)
                table = score(dictionary, self.store, seed=self.config.seed, progress=self.progress)
                _write_table(path, table)
                write_json(
                    self.run.path / "examples" / f"{name}.json",
                    self._examples(dictionary, candidates(table, SHOWN_LATENTS)),
                )
        return pl.read_parquet(path)

    def causal(self, name: str) -> pl.DataFrame:
        """Measure the KL that a dictionary recovers, and its foremost latents one at a time."""
        stage, path = f"causal/{name}", self.run.path / "causal" / f"{name}.parquet"
        table, config = self.score(name), self.config
        settings = {
            "seed": config.seed,
            "nu": config.nu,
            "counts": config.counts,
            "positions": config.positions,
            "edit_at": config.edit_at,
            "into": config.into,
            "biases": config.biases,
            "max_tokens": config.causal_tokens,
        }
        key = digest(
            {
                "table": self.run.key_of(f"score/{name}"),
                "settings": settings,
                "candidates": config.candidates,
                "code": VERSIONS["causal"],
            }
        )
        if not self.run.is_done(stage, key):
            ends = ("", ".places", ".latents")
            outputs = [f"causal/{name}{end}.parquet" for end in ends]
            with self.run.stage(stage, key, outputs):
                latents = candidates(table, config.candidates)
                found = causal_tables(self, name, table, self.causal_settings, latents)
                for output, part in zip(outputs, found, strict=True):
                    _write_table(self.run.path / output, part)
        return pl.read_parquet(path)

    def find(self) -> Verdict:
        """Say what differs, from all that the earlier stages measured."""
        path = self.run.path / "findings.json"
        stages = self.run.state.stages
        names = [name for name in self.trained if f"causal/{name}" in stages]
        if not names and not self.is_nil:
            raise InputError(f"{self.run.path} has no causal table; run `train` and `causal` first")
        key = digest(
            {
                "store": self.run.key_of("collect"),
                "causal": {name: self.run.key_of(f"causal/{name}") for name in names},
                "rate": self.config.rate,
                "seed": self.config.seed,
                "code": VERSIONS["find"],
            }
        )
        if not self.run.is_done("find", key):
            with self.run.stage("find", key, ["findings.json"]):
                write_verdict(path, verdict_of(self, names))
        return read_verdict(path)

    def report(self) -> Path:
        """Write the page from what the run folder holds."""
        return build(self.run.path)

    def _examples(self, dictionary: Dictionary, latents: Sequence[int]) -> list[dict[str, Any]]:
        """Return the latents' strongest windows, with their tokens as a person reads them."""
        found = top_examples(dictionary, self.store, latents)
        for latent in found:
            for example in latent["examples"]:
                self.add_text(example)
        return found

    def add_text(self, example: dict[str, Any]) -> None:
        """Replace an example's token ids by the tokens as a person reads them."""
        example["tokens"] = self.pair.token_strings(example.pop("token_ids"))


def _corpus(sources: Sequence[str | Path], pair: ModelPair, config: DiffConfig) -> TokenCorpus:
    documents = [document for source in sources for document in read_documents(source)]
    return load_corpus(
        documents,
        pair.tokenizer,
        context=config.context,
        pack=config.pack,
        max_tokens=config.max_tokens,
    )


def _write_table(path: Path, table: pl.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)
