"""Run: a run folder with the subject that it is about, and the artifacts that its stages left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch

from anaglyph.behaviour.directions import Held
from anaglyph.core.errors import InputError
from anaglyph.core.files import read_json, read_parquet
from anaglyph.core.progress import Progress, silent
from anaglyph.core.schemas import Behaviour, Verdict, read_behaviour, read_verdict
from anaglyph.core.settings import Settings
from anaglyph.core.threads import set_threads
from anaglyph.dictionaries import Dictionary, get_method
from anaglyph.pair import ModelPair
from anaglyph.run.folder import RunFolder
from anaglyph.run.layers import chosen_layers
from anaglyph.subject import Subject


class Run:
    """One run.

    Attributes:
        folder: Which stages are finished, and under which key.
        subject: Models, text and activations, each loaded when first needed and checked to be
            those that the run was made with.
        settings: Those in force: the run's own, or those of the command that reopened it.
    """

    def __init__(self, folder: RunFolder, subject: Subject) -> None:
        self.folder, self.subject, self.settings = folder, subject, subject.settings

    @classmethod
    def begin(cls, subject: Subject, out: str | Path, verify: bool = False) -> "Run":
        """Start a run in ``out``, or resume the one that is there.

        Args:
            subject: Models, text and settings.
            out: The run folder.
            verify: Check all bytes of what earlier runs finished, instead of samples.

        Raises:
            InputError: The data, the layer, a method or the folder cannot be used.
            ModelError: A model cannot be loaded, or the two do not fit.
        """
        settings = subject.settings
        RunFolder.check(out)
        for method in settings.train.methods:
            get_method(method, settings.train.options)
        set_threads(settings.threads)
        pair, corpus = subject.pair, subject.corpus
        notes = [*pair.notes, *_skipped(settings, pair)]
        if "auto" in settings.collect.layers:
            chosen = chosen_layers(subject, Path(out))
            vars(subject)["layers"] = chosen.layers
            notes.append(f"--layers auto: {chosen.reason}")
        folder = RunFolder.begin(
            out,
            verify,
            base=str(subject.base),
            tuned=str(subject.tuned),
            data=[str(source) for source in subject.data],
            layer=subject.layer,
            layers=list(subject.layers),
            n_layers=pair.n_layers,
            settings=settings,
            fingerprints=pair.fingerprints,
            corpus=_text_facts(subject)
            | {
                "fingerprint": corpus.fingerprint,
                "sequences": corpus.n_sequences,
                "heldout_sequences": int(corpus.heldout.sum()),
                "tokens": corpus.n_tokens,
                "context": corpus.context,
            },
            vocabulary=pair.vocabulary_facts,
            notes=notes,
            threads=torch.get_num_threads(),
        )
        subject.out = folder.path / "activations"
        return cls(folder, subject)

    @classmethod
    def reopen(
        cls, path: str | Path, progress: Progress = silent, *, verify: bool = False, **changes: Any
    ) -> "Run":
        """Open a run that `begin` made; changes that are not None replace its settings.

        Args:
            path: The run folder.
            progress: Told how far each stage is.
            verify: Check all bytes of what the stages read, instead of samples.
            **changes: Settings by name.

        Raises:
            InputError: There is no run in the folder, or a setting has a bad value.
            StoreError: `run.json` is damaged.
        """
        folder = RunFolder.open(path, verify)
        state = folder.state
        given = {name: value for name, value in changes.items() if value is not None}
        if "layer" in given:
            given["layers"] = ()  # a command that runs the models at a layer of its own
        settings = state.settings.changed(**given) if given else state.settings
        subject = Subject(
            state.base,
            state.tuned,
            state.data,
            folder.path / "activations",
            settings,
            progress,
            expected=state.fingerprints | {"corpus": state.corpus.get("fingerprint")},
            check_store=lambda: folder.check_stage("collect"),
        )
        vars(subject)["layer"] = state.layer
        vars(subject)["layers"] = tuple(state.layers or [state.layer])
        set_threads(settings.threads)
        return cls(folder, subject)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def report_path(self) -> Path:
        """Where the page is, or will be."""
        return self.path / "report" / "index.html"

    @property
    def is_page_current(self) -> bool:
        """Whether the page shows what the stages have last written."""
        state = self.folder.state.stages.get("report")
        return state is not None and state.key == self.folder.key_of_page()

    @property
    def verdict(self) -> Verdict:
        """What `find` wrote."""
        self.folder.check_stage("find")
        return read_verdict(self.path / "findings.json")

    @property
    def methods(self) -> list[str]:
        """The dictionary methods to train: those that this pair allows."""
        pair, training = self.subject.pair, self.settings.train
        return [m for m in training.methods if unfit(m, training.options, pair) is None]

    @property
    def held(self) -> Held:
        """What the directions of the run are taken from, by name."""
        return Held(lambda: self.subject.space, self.dictionary, self.table, lambda: self.verdict)

    @property
    def reading(self) -> dict[str, Any] | None:
        """What was read of the data; None where the text was not read from files."""
        path = self.path / "reading.json"
        return read_json(path) if path.is_file() else None

    @property
    def behaviour(self) -> Behaviour | None:
        """What `behave` wrote; None if the models were not asked."""
        if "behave" not in self.folder.state.stages:
            return None
        self.folder.check_stage("behave")
        linked = "link" in self.folder.state.stages
        if linked:
            self.folder.check_stage("link")
        return read_behaviour(self.path / "behaviour.json", linked)

    @property
    def trained(self) -> list[str]:
        """Names of the finished dictionaries."""
        stages = self.folder.state.stages
        return [stage.removeprefix("train/") for stage in stages if stage.startswith("train/")]

    def names(self, wanted: Sequence[str] | None = None) -> list[str]:
        """Return the trained dictionaries, or check that the wanted ones are trained.

        Raises:
            InputError: A name is not among them, or there are none.
        """
        trained = self.trained
        if not trained:
            raise InputError(f"{self.path} has no trained dictionary; run `train` first")
        for name in wanted or ():
            if name not in trained:
                raise InputError(f"no dictionary {name!r} in {self.path}: {', '.join(trained)}")
        return list(wanted or trained)

    def dictionary(self, name: str) -> Dictionary:
        """Load a trained dictionary."""
        self.folder.check_stage(f"train/{name}")
        dictionary = Dictionary.load(self.path / "dictionaries" / name)
        return dictionary.on(self.settings.device)

    def table(self, name: str) -> pl.DataFrame:
        """Read a dictionary's latent table."""
        self.folder.check_stage(f"score/{name}")
        return read_parquet(self.path / "latents" / f"{name}.parquet")

    def difference_dictionaries(self) -> dict[str, Dictionary]:
        """Load the trained dictionaries of the difference, by name: findings start from them."""
        loaded = {name: self.dictionary(name) for name in self.trained}
        return {name: d for name, d in loaded.items() if d.spec.sources == ("difference",)}


def _text_facts(subject: Subject) -> dict[str, Any]:
    """Return the facts of the whole text, of which a stream's corpus is a sample."""
    if subject.settings.collect.store == "disk":
        return {}
    return {"text": subject.text.fingerprint, "text_tokens": subject.text.n_tokens}


def name_of(method: str, sparsity: str) -> str:
    """Return the name of a method's dictionary: its folder, its stages, its column in tables."""
    return method if sparsity == "batchtopk" else f"{method}:{sparsity}"


def unfit(method: str, options: dict[str, Any], pair: ModelPair) -> str | None:
    """Return why a dictionary method cannot be trained on this pair; None if it can."""
    chosen = get_method(method, options)
    try:
        chosen.widths(pair.d_base, pair.d_tuned)
    except InputError as error:
        return str(error)
    if not pair.related and "difference" in chosen.sources:
        return f"{method} subtracts activations, and these two models have no common coordinates"
    return None


def _skipped(settings: Settings, pair: ModelPair) -> list[str]:
    """Return what is left out of a diff of this pair, a line each."""
    training = settings.train
    found = [(m, unfit(m, training.options, pair)) for m in training.methods]
    notes = [f"{method} is skipped: {why}" for method, why in found if why is not None]
    if not pair.related:
        notes.append(
            "causal tables are skipped: one model cannot be patched with the other's activations"
        )
    return notes
