"""The stage of a run that trains all dictionaries while the models run."""

from collections.abc import Mapping

from anaglyph.core.errors import InputError
from anaglyph.core.processes import of_several
from anaglyph.core.threads import use_threads
from anaglyph.dictionaries.config import resolve
from anaglyph.dictionaries.stream import Stream, train_together, whole_batches
from anaglyph.dictionaries.training import Training, with_k
from anaglyph.run.run import Run


def outputs_of(name: str) -> list[str]:
    """Return the files of a dictionary in the run folder."""
    return [f"dictionaries/{name}/{file}" for file in ("config.json", "weights.safetensors")]


def train_streamed(run: Run, wanted: Mapping[str, tuple[str, str]]) -> None:
    """Train dictionaries on one stream of activations; those that were begun are resumed.

    Args:
        run: Its store is the sample of the stream.
        wanted: By dictionary, its method and the key of its stage.

    Raises:
        InputError: The text has fewer tokens than the training asks for.
    """
    if not wanted:
        return
    subject, settings = run.subject, run.settings
    if of_several():
        raise InputError(
            "store: a stream trains in one process; start the command without torchrun, or "
            "use --store disk"
        )
    stream = stream_of(run)
    training = settings.train
    if training.tokens is None:
        # Read once: what the text gives in whole batches.
        tokens = max(training.batch, whole_batches(stream, training.batch))
        training = training.model_copy(update={"tokens": tokens})
    trainings, chosen = {}, {}
    with use_threads(settings.threads):
        for name, (method, _) in wanted.items():
            config = resolve(subject.store, method, training, settings.seed, settings.device)
            config, chosen[name] = with_k(subject.store, config, subject.progress)
            trainings[name] = Training(
                subject.store,
                config,
                run.path / "dictionaries" / name / "checkpoint",
                text=stream.key,
            )
        train_together(stream, list(trainings.values()), subject.progress)
        for name, (_, key) in wanted.items():
            with run.folder.stage(f"train/{name}", key, outputs_of(name)):
                # Saved before its checkpoint is removed.
                trainings[name].finish(chosen[name], run.path / "dictionaries" / name)


def stream_of(run: Run) -> Stream:
    """Return the stream of a run's training tokens.

    Raises:
        InputError: The run keeps all activations.
    """
    subject, collecting = run.subject, run.settings.collect
    if collecting.store != "stream":
        raise InputError("store: this run keeps all activations; start it with --store stream")
    return Stream(
        subject.pair,
        subject.text,
        subject.layer,
        seed=run.settings.seed,
        window=collecting.window,
        dtype=collecting.dtype,
    )
