"""The command line: parse, call, print. All work is done by the rooms that it calls.

Exit codes: 0 done, 1 `verify` found damage or `gate` says no, 2 input that cannot be used (one line
says what), 130 interrupted by Ctrl-C, 143 terminated, 141 the reader of the output has gone.
Finished stages are kept.
"""

import os
import sys
from importlib import import_module

import typer

from anaglyph.cli.app import app
from anaglyph.cli.signals import RESUME, ending_at_once
from anaglyph.cli.terminal import plain
from anaglyph.core.errors import AnaglyphError
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
    with ending_at_once():
        code = _run()
    sys.exit(code)


def _run() -> int:
    try:
        for word in sys.argv[1:]:
            check_name(word)
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        message = getattr(error, "format_message", lambda: str(error))()
        return _refused(message)
    except AnaglyphError as error:
        return _refused(str(error))
    except BrokenPipeError:
        # Whoever read our output has read enough; nothing more may be written to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _refused(os_error_text(error))
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
    return code if isinstance(code, int) else 0


def _refused(message: str) -> int:
    # Names of files and values of fields may be anything: one line, and nothing that a terminal
    # would obey.
    sys.stderr.write(f"error: {plain(' '.join(message.split()))}\n")
    return 2
