"""The command line: parse, call, print. All work is done by the rooms that it calls.

Exit codes: 0 done, 1 `verify` found damage or `gate` says no, 2 input that cannot be used (one line
says what), 130 interrupted by Ctrl-C, 143 terminated, 129 the terminal is gone, 141 the reader of
the output has gone.
Finished stages are kept.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

import typer

from anaglyph.cli.app import app
from anaglyph.cli.signals import RESUME, ending_at_once
from anaglyph.cli.terminal import plain
from anaglyph.core.errors import AnaglyphError, InputError
from anaglyph.core.files import check_name, os_error_text

__all__ = ["app", "main"]

# Importing a module registers its commands, in the order of the help page. What needs torch is
# imported inside the commands, so that `--help` answers at once.
for _module in (
    "stages",
    "verify",
    "gate",
    "watch",
    "plan",
    "submit",
    "causal",
    "behaviour",
    "direct",
    "amplify",
    "truth",
    "calibrate",
    "game",
    "audit",
):
    import_module(f"anaglyph.cli.{_module}")


def main() -> None:
    """Run the command line; the only place where an exception becomes an exit code."""
    _open_streams()
    with ending_at_once():
        code = _run(_in_several if int(os.environ.get("WORLD_SIZE", "1")) > 1 else _command)
    sys.exit(code)


def _open_streams() -> None:
    """Open what a shell has closed (``>&-``), or the first file written would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: SIM115


def _command() -> int:
    _check_place()
    for word in sys.argv[1:]:
        check_name(word)
    code = app(standalone_mode=False)
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def _in_several() -> int:
    """Run the command in the first of torchrun's processes, and its parts in the others."""
    from anaglyph.core.processes import finish, launched, serve, start

    if not launched():
        return _command()
    group = start()
    if group.rank == 0:
        code = _run(_command)
        finish(code)
        return code
    from anaglyph.dictionaries.training import train_along
    from anaglyph.subject import Subject

    return serve(group, {"collect": Subject.collect_along, "train": train_along})


def _run(command: Callable[[], int]) -> int:
    try:
        return command()
    except typer.TyperException as error:
        message = getattr(error, "format_message", lambda: str(error))()
        return _refused(message)
    except AnaglyphError as error:
        return _refused(str(error))
    except (BrokenPipeError, SystemExit) as error:
        # typer makes an exit of a broken pipe inside a command.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # Whoever read our output has read enough; nothing more may be written to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _refused(os_error_text(error))
    except OverflowError as error:
        return _refused(f"a number is too large ({error}); give a smaller one")
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        # By its name: importing torch here would make every command slow to start.
        if type(error).__name__ == "OutOfMemoryError":
            return _refused(f"out of memory: {said.partition('. ')[0]}")
        if not isinstance(error, MemoryError) and "DefaultCPUAllocator" not in said:
            raise
        return _refused("out of memory; finished stages are kept. Free some, or use smaller models")
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write(f"Interrupted. {RESUME}\n")
        return 130
    except BaseException as error:
        # A panic of a library written in Rust is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        return _refused(f"a library gave up: {str(error).partition(chr(10))[0]}")


def _check_place() -> None:
    """Refuse to work in a folder that is gone: libraries end the process there without a word."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the current folder is gone; change to one that is there") from None


def _refused(message: str) -> int:
    # Names of files and values of fields may be anything: one line, and nothing that a terminal
    # would obey. Where it cannot be written, the exit code tells.
    with suppress(OSError):
        sys.stderr.write(f"error: {plain(' '.join(message.split()))}\n")
        sys.stderr.flush()
    return 2
