"""Third-party loaders without their chatter, and their errors without their essays."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers.utils import logging

from anaglyph.core.errors import AnaglyphError, ModelError


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, log lines and warnings of the loaders; everything is put back after.

    What those lines would have said about missing weights is checked by the callers instead.
    """
    verbosity = logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # Some bars obey no switch and go straight to stderr.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        # The hub's bars last, because the switches above move them as well.
        (enable_progress_bars if hub_bars else disable_progress_bars)()


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Silence the loaders in the block, and turn whatever they raise into one line.

    Strangers' files make them raise anything: ZeroDivisionError, IndexError, their own kinds.

    Raises:
        ModelError: ``what``, then the first line of the error.
    """
    try:
        with quiet():
            yield
    except AnaglyphError:
        raise
    except Exception as error:
        raise ModelError(f"{what}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an error's text, or the error's type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
