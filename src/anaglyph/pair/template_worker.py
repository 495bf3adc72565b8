"""Renders chat templates in a process of its own: a hostile template can exhaust only that.

Run as a script, never imported by the package. It reads one JSON request a line and answers each
with one line. It imports nothing but jinja2, so it starts in a tenth of a second.

The environment is that of transformers (`transformers.utils.chat_template_utils`), but for two
things: the clock stands still, and `{% generation %}` blocks are marked in the text where asked.
"""

import faulthandler
import json
import random
import sys
from datetime import datetime
from functools import cache
from typing import Any, TextIO

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

# What Llama 3's template falls back on; any fixed day would do.
NOW = datetime(2024, 7, 26)


class Generation(Extension):
    """Marks what ``{% generation %}`` blocks write, between `opening` and `closing`."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)
    opening = closing = ""

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse one block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Macro) -> str:
        return f"{Generation.opening}{caller()}{Generation.closing}"


class TemplateDict:
    """``dict`` without the ways out of the sandbox that the class itself has."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Make a dict."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Make a dict of keys with one value."""
        return dict.fromkeys(*args)


class TemplateNamespace(Namespace):
    """``namespace`` that takes no private attribute."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no private attribute ({name!r})")


def _raise(message: object) -> None:
    raise TemplateError(str(message))


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _strftime_now(form: str) -> str:
    return NOW.strftime(form)


@cache
def compiled(template: str) -> Any:
    """Compile a template once."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise,
        strftime_now=_strftime_now,
        dict=TemplateDict(),
        namespace=TemplateNamespace,
    )
    return environment.from_string(template)


def render(request: dict[str, Any], chat: list[Any], longest: int) -> dict[str, str]:
    """Render one chat; what goes wrong is part of the answer."""
    random.seed(0)  # jinja2 has a filter that chooses at random
    try:
        pieces, length = [], 0
        for piece in compiled(request["template"]).generate(messages=chat, **request["variables"]):
            pieces.append(piece)
            length += len(piece)
            if length > longest:
                return {"limit": f"it writes more than {longest:,} characters"}
        return {"text": "".join(pieces)}
    except TemplateSyntaxError as error:
        return {"broken": f"line {error.lineno}: {error.message}"}
    except (MemoryError, RecursionError) as error:
        return {"limit": f"it needs too much memory ({type(error).__name__})"}
    except TemplateError as error:
        return {"refused": str(error.message or error)[:500]}
    except Exception as error:  # a template can raise anything
        return {"refused": f"{type(error).__name__}: {error}"[:500]}


def answer(line: str, longest: int) -> list[dict[str, str]]:
    """Answer one request."""
    request = json.loads(line)
    results = []
    for opening, closing, chat in request["chats"]:
        Generation.opening, Generation.closing = opening, closing
        results.append(render(request, chat, longest))
    return results


def main(seconds: float, memory: int, longest: int, incoming: TextIO, outgoing: TextIO) -> None:
    """Answer requests until there are no more.

    A request that takes longer than ``seconds`` ends the process, even inside one long operation
    of the interpreter.
    """
    try:
        import resource
    except ImportError:  # Windows: only the time is bounded
        pass
    else:
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    silence = open("/dev/null" if sys.platform != "win32" else "nul", "w")  # noqa: SIM115
    for line in incoming:
        faulthandler.dump_traceback_later(seconds, exit=True, file=silence)
        try:
            written = json.dumps(answer(line, longest))
        except (MemoryError, RecursionError):
            written = json.dumps([{"limit": "it needs too much memory"}])
        faulthandler.cancel_dump_traceback_later()
        outgoing.write(written + "\n")
        outgoing.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.stdin, sys.stdout)
