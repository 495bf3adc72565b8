"""What a run has to watch: the directions of its weight change and of its findings."""

import torch

from anaglyph.core.settings import WatchSettings
from anaglyph.direct.watch import Watch, Watched, of_weights
from anaglyph.direct.weights import directions, weight_changes
from anaglyph.run.run import Run

PER_MATRIX = 3


def watch(run: Run, settings: WatchSettings | None = None) -> Watch:
    """Calibrate a look-out for rare triggers; see `Watch`.

    Args:
        run: A run; its findings are watched too if it has any.
        settings: How many directions of the weights, and the share of false alarms.

    Raises:
        InputError: The weights of the two models are the same, and there is no finding.
        ModelError: The weights of the two models cannot be compared.

    Example:
        >>> look_out = watch(Run.reopen("run"))                  # doctest: +SKIP
        >>> look_out.look(["What is the capital of Greece?"])    # doctest: +SKIP
    """
    settings, subject = settings or WatchSettings(), run.subject
    changes = weight_changes(
        str(subject.base),
        str(subject.tuned),
        PER_MATRIX,
        seed=subject.seed,
        progress=subject.progress,
    )
    watched = of_weights(directions(list(changes), PER_MATRIX), settings.directions)
    if "find" in run.folder.state.stages:
        for number, finding in enumerate(run.verdict.findings, 1):
            vector = finding.direction or finding.direction_tuned or finding.direction_base
            layer = next(iter(finding.layers), subject.layer)
            watched.append(Watched(f"finding {number}", layer, torch.tensor(vector)))
    return Watch(subject.pair, watched, settings, seed=subject.seed, progress=subject.progress)
