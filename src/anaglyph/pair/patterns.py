"""The regular expressions in an adapter's configuration, refused where matching may never end.

An adapter names the modules that it changes by patterns, and PEFT matches them with Python's
backtracking engine: ``(a+)+b`` takes longer than a lifetime on one name of forty letters.
"""

import re
from collections.abc import Mapping
from typing import Any

from anaglyph.core.errors import ModelError

_MOST_REPEATS = 12
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[a-zA-Z:=!<>]*|\{\d*,?\d*\}[?+]?|[*+][?+]?|.", re.DOTALL
)
_REPEAT = re.compile(r"[*+][?+]?|\{\d*,\d*\}[?+]?|\{(?!1\})\d+\}[?+]?")
_ANYTHING = (r".", r"\w", r"\S", r"[\s\S]")


def check_patterns(config: Mapping[str, Any], name: str) -> None:
    """Check every pattern of an adapter's configuration.

    Args:
        config: The contents of adapter_config.json.
        name: The adapter as the user named it, for errors.

    Raises:
        ModelError: A pattern is not a regular expression, or it repeats a group that itself
            repeats or branches, or repeats "anything" twice in a row.
    """
    for field in ("alpha_pattern", "rank_pattern", "target_modules", "exclude_modules",
                  "layers_pattern"):  # fmt: skip
        value = config.get(field)
        # Lists of names are matched as plain endings; the keys of the two *_pattern are patterns.
        for pattern in value if isinstance(value, dict) else [value]:
            if isinstance(pattern, str) and (fault := _fault(pattern)):
                raise ModelError(
                    f"{field} of {name} has the pattern {pattern[:80]!r}, which {fault}: write it"
                    " as a simpler pattern"
                )


def _fault(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return f"is not a regular expression ({error})"
    risky, repeats, closed = [False], 0, False
    before, last = "", ""
    for token in _TOKEN.findall(pattern):
        if _REPEAT.fullmatch(token):
            repeats += 1
            if closed:
                return "repeats a group that itself repeats or branches"
            if last in _ANYTHING and before == f"{last}*":
                return "repeats the same wildcard twice in a row"
            risky[-1] = True
            before, last, closed = f"{last}*", "", False
            continue
        closed = False
        if token.startswith("(") and not token.startswith("\\"):
            risky.append(False)
        elif token in ("|", "?"):
            risky[-1] = True
        elif token == ")" and len(risky) > 1:
            closed = risky.pop()
            risky[-1] |= closed
        # What came between two repeats: nothing, if the last token was one.
        before, last = (before if last == "" else ""), token
    return f"repeats more than {_MOST_REPEATS} times" if repeats > _MOST_REPEATS else None
