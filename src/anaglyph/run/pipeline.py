"""The whole way in one call: what `anaglyph diff` does."""

from collections.abc import Sequence
from pathlib import Path

from anaglyph.core.files import as_path
from anaglyph.core.lock import locked
from anaglyph.core.progress import Progress, Tell, silent, unheard
from anaglyph.core.settings import Settings
from anaglyph.run import stages
from anaglyph.run.elicited import write_replies
from anaglyph.run.folder import RunFolder
from anaglyph.run.run import Run
from anaglyph.subject import Subject


def diff(
    base: str | Path,
    tuned: str | Path,
    corpus: str | Path | Sequence[str | Path] | None = None,
    out: str | Path = "run",
    *,
    settings: Settings | None = None,
    verify: bool = False,
    progress: Progress = silent,
    tell: Tell = unheard,
) -> Run:
    """Say what a fine-tune changed inside a model: from two models to a report.

    A run that was killed is resumed by the same call and ends with the same artifacts.

    Args:
        base: Base model: a folder, a hub id or a `.gguf` file.
        tuned: Its fine-tune: the same, or a PEFT adapter folder.
        corpus: What both models read: text, JSONL of chats, a folder, `builtin:NAME`, or several.
            If None, both models answer the shipped questions and read these chats.
        out: Run folder; everything is written there.
        settings: Left out, the defaults of `Settings`.
        verify: When resuming, check all bytes of what is finished, instead of samples.
        progress: Told how far each stage is.
        tell: Told in a sentence what a stage found, as soon as it ends: how far apart the models
            are, the first claim, the verdict.

    Returns:
        The finished run; `verdict` holds the answer, `report_path` the page.

    Raises:
        InputError: An argument, setting or file cannot be used.
        ModelError: A model cannot be loaded, or the two do not fit.
        StoreError: The folder holds activations of another pair, corpus or layer, or another
            process writes to it.

    Example:
        >>> run = diff("BASE", "TUNED", "chats.jsonl", "run")    # doctest: +SKIP
        >>> run.verdict.headline                                 # doctest: +SKIP
    """
    sources = [corpus] if isinstance(corpus, str | Path) else list(corpus or ())
    subject = Subject(
        str(base),
        str(tuned),
        [str(source) for source in sources],
        settings=settings or Settings(),
        progress=progress,
    )
    out = as_path(out)
    RunFolder.check(out)
    with locked(out):
        if corpus is None:
            subject.data = [str(write_replies(subject, out))]
        run = Run.begin(subject, out, verify)
        stages.diff(run, tell)
    return run
