"""The command line: parse, call, print. All work is done by the rooms that it calls.

Exit codes: 0 done, 2 input that cannot be used (one line says what), 130 interrupted by Ctrl-C.
Finished stages are kept.
"""

import sys
from importlib import import_module

import typer

from anaglyph.cli.app import app
from anaglyph.core.errors import AnaglyphError

__all__ = ["app", "main"]

# Importing a module registers its commands, in the order of the help page. What needs torch is
# imported inside the commands, so that `--help` answers at once.
for _module in (
    "stages",
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
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        message = getattr(error, "format_message", lambda: str(error))()
        sys.stderr.write(f"error: {message}\n")
        code = 2
    except AnaglyphError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        sys.stderr.write("Interrupted. Run the same command again to resume.\n")
    sys.exit(code if isinstance(code, int) else 0)
