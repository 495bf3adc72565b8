"""Subject: what every measurement asks for, each part loaded when it is first needed.

A measurement needs some of: both models, the text they read, the layer, the stored activations, the
mean and components of their difference, a seed, and someone to tell how far it is. `Subject` holds
them all. A run, a command without a run folder and the diffing game make one each; a script that
has the parts in hand uses `Subject.of`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from anaglyph.core.devices import numbers_of, resolve_device, resolve_dtype
from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.processes import ALONE, Group, together
from anaglyph.core.progress import Progress, silent
from anaglyph.core.settings import Settings, load_settings
from anaglyph.core.threads import use_threads
from anaglyph.corpus import TokenCorpus, load_corpus, sample_of
from anaglyph.pair import ModelPair
from anaglyph.pair.sources import convert_pickled, stay_local
from anaglyph.store import DifferenceSpace, PairedStore, collect
from anaglyph.store.collecting import Work
from anaglyph.store.writer import Part

T = TypeVar("T")


@dataclass(eq=False)
class Subject:
    """A pair of models with the text and the activations under measurement.

    Attributes:
        base: The base model as the user named it; None if no models were named.
        tuned: The tuned model as the user named it.
        data: Sources of text, as `read_documents` takes them.
        out: Folder of the activations; None if they are not to be collected.
        settings: What to collect, and the seed.
        progress: Told how far each measurement is.
        expected: Digests that the loaded models and text must have, by ``pair.fingerprints`` key
            and "corpus". An empty mapping expects nothing.
        keep_predictions: Keep both models' own predictions from one causal table to the next: 4
            bytes for each token of text and of the vocabulary, of either model.
        check_store: Called where the activations cannot be read, to say what repairs them.

    Example:
        >>> subject = Subject("BASE", "TUNED", ["chats.jsonl"])   # nothing is loaded yet
        >>> subject.settings.seed
        0
    """

    base: str | None = None
    tuned: str | None = None
    data: Sequence[str] = ()
    out: Path | None = None
    settings: Settings = field(default_factory=Settings)
    progress: Progress = silent
    expected: Mapping[str, str | None] = field(default_factory=dict)
    keep_predictions: bool = False
    check_store: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._made: dict[str, Any] = {}
        if self.settings.local_files_only:
            stay_local()
        if self.settings.convert:
            convert_pickled()

    @classmethod
    def of(
        cls,
        *,
        pair: ModelPair | None = None,
        corpus: TokenCorpus | None = None,
        store: PairedStore | None = None,
        others: Sequence[PairedStore] = (),
        layer: int | float | None = None,
        settings: Settings | None = None,
        progress: Progress = silent,
    ) -> "Subject":
        """Join parts that are loaded already; what is left out cannot be asked for.

        Args:
            pair: Both models.
            corpus: What they read.
            store: Their activations; its layer is the subject's unless one is named.
            others: Activations of the same tokens at further layers.
            layer: Index, or fraction of the depth.
            settings: For the seed; the defaults if None.
            progress: Told how far each measurement is.
        """
        subject = cls(settings=settings or Settings(), progress=progress)
        vars(subject)["others"] = tuple(others)
        parts = {"pair": pair, "corpus": corpus, "store": store}
        vars(subject).update({name: part for name, part in parts.items() if part is not None})
        if layer is not None:
            subject.__dict__["layer"] = layer if pair is None else pair.resolve_layer(layer)
        elif store is not None:
            subject.__dict__["layer"] = store.layer
        return subject

    def of_pair(self, pair: ModelPair) -> "Subject":
        """Return the same text and layer under another pair, such as a null pair."""
        return Subject.of(
            pair=pair,
            corpus=self.corpus,
            layer=self.layer,
            settings=self.settings,
            progress=self.progress,
        )

    def at_each_layer(self) -> list["Subject"]:
        """Return this subject, and the same at each further layer."""
        parts = {"pair": self.pair, "corpus": self.corpus} if self.has_models else {}
        further = [
            Subject.of(store=store, settings=self.settings, progress=self.progress, **parts)
            for store in self.others
        ]
        return [self, *further]

    @property
    def seed(self) -> int:
        """Seed of every random choice."""
        return self.settings.seed

    @property
    def computed(self) -> str:
        """What of the device determines what the models compute: its type and number format."""
        settings = self.settings
        return numbers_of(resolve_device(settings.device), resolve_dtype(settings.model_dtype))

    @property
    def has_models(self) -> bool:
        """Whether both models and their text are at hand or can be loaded."""
        has_pair = "pair" in vars(self) or self.tuned is not None
        return has_pair and ("corpus" in vars(self) or bool(self.data))

    @property
    def has_space(self) -> bool:
        """Whether the mean difference is at hand, or there are activations to take it from."""
        return bool({"space", "store"} & set(vars(self))) or self.out is not None

    @cached_property
    def pair(self) -> ModelPair:
        """Both models.

        Raises:
            InputError: None were named, or they have changed since the run was made.
            ModelError: A model cannot be loaded, or the two do not fit.
        """
        if self.base is None or self.tuned is None:
            raise InputError("this step runs the models, and none were given: name BASE and TUNED")
        settings = self.settings
        pair = ModelPair.load(
            self.base,
            self.tuned,
            device=settings.device,
            dtype=settings.model_dtype,
            **settings.pair.model_dump(),
        )
        for name, digest in pair.fingerprints.items():
            if self.expected.get(name, digest) != digest:
                raise InputError(f"{name} ({self.base}, {self.tuned}) has changed since the run")
        if pair.spans is not None and self.data:
            # Spans get their ids as they are met: first those of the text, so that a run's stay.
            vars(self)["pair"] = pair
            _ = self.corpus
        return pair

    @cached_property
    def corpus(self) -> TokenCorpus:
        """What the models read and activations are kept of: the text, or a stream's sample of it.

        Raises:
            InputError: No data were named, they cannot be read, or have changed since the run.
        """
        corpus, collecting = self.text, self.settings.collect
        if collecting.store == "stream":
            corpus = sample_of(corpus, collecting.sample_tokens)
        if self.expected.get("corpus", corpus.fingerprint) != corpus.fingerprint:
            raise InputError(f"the data ({', '.join(self.data)}) have changed since the run")
        return corpus

    @cached_property
    def text(self) -> TokenCorpus:
        """The whole text.

        Raises:
            InputError: No data were named, or they cannot be read.
        """
        if not self.data:
            raise InputError("--data is missing: name the text to read")
        collecting = self.settings.collect
        return load_corpus(
            self.data,
            self.pair.tokenizer,
            context=collecting.context,
            pack=collecting.pack,
            max_tokens=collecting.max_tokens,
            column=collecting.column,
            skip_bad=collecting.skip_bad,
        )

    @cached_property
    def layer(self) -> int:
        """The layer under measurement; of several that of the dictionaries."""
        return self.store.layer if "store" in vars(self) else self.layers[0]

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers whose activations are kept, that of the dictionaries first.

        Raises:
            InputError: They are to be chosen (`run.layers` does so), or the models lack one.
        """
        collecting = self.settings.collect
        if "auto" in collecting.layers:
            raise InputError("layers: auto is for diff and collect; name the layers")
        named = [each for each in collecting.layers if each != "auto"] or [collecting.layer]
        return tuple(dict.fromkeys(self.pair.resolve_layer(each) for each in named))

    @cached_property
    def others(self) -> tuple[PairedStore, ...]:
        """The activations at all layers but the first."""
        return tuple(self.store.at(layer) for layer in self.layers[1:])

    @cached_property
    def store(self) -> PairedStore:
        """Both models' activations at the layer, as they are in ``out``; collected if need be.

        Raises:
            InputError: There are none, and nowhere to collect them.
            StoreError: They are unfinished or damaged.
        """
        if self.out is not None and (self.out / "manifest.json").is_file():
            try:
                stored = PairedStore.open(self.out)
            except StoreError:
                self.check_store()  # a run knows the command that repairs it
                raise
            return stored if len(stored.layers) == 1 else stored.at(self.layer)
        return self.collect()

    def collect(self) -> PairedStore:
        """Run both models over the text and store their activations, or finish what was begun.

        Raises:
            InputError: There is nowhere to store them.
            StoreError: The folder holds activations of another pair, text or layer.
        """
        if self.out is None:
            raise InputError("this step reads stored activations, and there are none: collect them")
        self.store = collect(
            self.pair,
            self.corpus,
            self.layers,
            self.out,
            dtype=self.settings.collect.dtype,
            progress=self.progress,
            others=self._with_others,
        ).at(self.layer)
        return self.store

    def _with_others(
        self, parts: list[list[int]], plan: dict[str, Any]
    ) -> AbstractContextManager[Group]:
        """Let the other processes of this command write their shards, if there are any."""
        if self.tuned is None or self.out is None:
            return nullcontext(ALONE)
        return together(
            "collect",
            pair=[self.base, self.tuned, list(self.data)],
            settings=self.settings.model_dump(mode="json"),
            corpus=self.corpus.fingerprint,
            threads=torch.get_num_threads(),
            work=[str(self.out.resolve()), parts, plan],
        )

    @classmethod
    def collect_along(
        cls,
        group: Group,
        pair: list[Any],
        settings: dict[str, Any],
        corpus: str,
        threads: int,
        work: list[Any],
    ) -> None:
        """Do another process's part of ``collect``; arguments as process 0 sends them."""
        base, tuned, data = pair
        folder, parts, plan = work
        expected = {"corpus": corpus}
        own = cls(base, tuned, data, settings=load_settings(None, **settings), expected=expected)
        with use_threads(threads):
            shares = Work(own.pair, own.corpus, **plan | {"layers": tuple(plan["layers"])})
            shares.run(Path(folder), [Part.of(part) for part in parts], group)

    @cached_property
    def space(self) -> DifferenceSpace:
        """Mean and principal components of h_tuned - h_base over the training tokens."""
        if not self.store.related or self.store.d_base != self.store.d_tuned:
            raise InputError(
                "the two models have no common coordinates: their activations have no difference"
            )
        blocks = self.store.blocks("train")
        return DifferenceSpace.of(block.tuned - block.base for block in blocks)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what ``make`` gives, made the first time that ``name`` is asked for."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]
