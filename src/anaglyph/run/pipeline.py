"""The whole way in one call: what `anaglyph diff` does."""

from collections.abc import Sequence
from pathlib import Path

from anaglyph.core.progress import Progress, silent
from anaglyph.core.settings import DiffConfig
from anaglyph.run.stages import Workbench


def diff(
    base: str | Path,
    tuned: str | Path,
    corpus: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    config: DiffConfig | None = None,
    progress: Progress = silent,
) -> Workbench:
    """Say what a fine-tune changed inside a model: from two models to a report.

    A run that was killed is continued by the same call and ends with the same artifacts.

    Args:
        base: Base model: a folder, a hub id or a `.gguf` file.
        tuned: Its fine-tune: the same, or a PEFT adapter folder.
        corpus: What both models read: text, JSONL of chats, a folder, `builtin:NAME`, or several.
        out: Run folder; everything is written there.
        config: Settings; left out, the defaults of `DiffConfig`.
        progress: Told how far each stage is.

    Returns:
        The finished run; `verdict` holds the answer, `report_path` the page.

    Raises:
        InputError: An argument, setting or file cannot be used.
        ModelError: A model cannot be loaded, or the two do not fit.
        StoreError: The folder holds activations of another pair, corpus or layer.
    """
    bench = Workbench.begin(base, tuned, corpus, out, config or DiffConfig(), progress)
    bench.collect()
    if not bench.is_nil:
        for method in bench.config.methods:
            bench.train(method)
            name = bench.name_of(method)
            bench.score(name)
            bench.causal(name)
    bench.find()
    bench.report()
    return bench
