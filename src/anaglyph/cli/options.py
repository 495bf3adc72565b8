"""Command-line options: made from the settings, and the few that are not settings.

`with_settings(TrainSettings)` gives a command one option for each field of the section, with the
field's description, choices and default as its help. What the user gave arrives as one argument,
`given`: a dict of field names to values, without the options that were left out. Values stay text;
pydantic reads and checks them, so that a bad value gives the same line whether it comes from the
command line or from a file.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from anaglyph.core.errors import InputError
from anaglyph.core.files import parse_json
from anaglyph.core.settings import Section

Base = Annotated[
    str, typer.Argument(help="Base model: a folder, a hub id (NAME@REVISION) or a .gguf file.")
]
Tuned = Annotated[str, typer.Argument(help="Its fine-tune: the same, or a PEFT adapter folder.")]
BaseOrRun = Annotated[
    str, typer.Argument(help="Base model (a folder, a hub id or a .gguf file), or a run folder.")
]
MaybeTuned = Annotated[
    str | None,
    typer.Argument(help="Its fine-tune: the same, or a PEFT adapter; not with a run folder."),
]
Run = Annotated[Path, typer.Argument(help="Run folder, as `diff` or `collect` made it.")]
Data = Annotated[
    list[str],
    typer.Option(
        help="Text to read: a file, JSONL of chats, a folder of these, or builtin:NAME; repeatable."
    ),
]
MaybeData = Annotated[
    list[str] | None,
    typer.Option(
        help="Text to read: a file, JSONL of chats, a folder of these, or builtin:NAME; repeatable."
    ),
]
Out = Annotated[Path, typer.Option(help="Run folder; an unfinished run in it is resumed.")]
Tables = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the tables (parquet); a run keeps them in direct/."),
]
MaybeOut = Annotated[
    Path | None,
    typer.Option(help="Run folder; an unfinished run in it is resumed. Not with a run folder."),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Check all bytes of what is finished, not samples.")
]
Config = Annotated[
    Path | None, typer.Option(help="JSON or TOML file of settings; options given here win.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Prompts = Annotated[
    Path | None,
    typer.Option(help='Prompts: one a line, or JSONL with "prompt" or "messages".'),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", help="Dictionary in the run, repeatable (default: all)."),
]
OneName = Annotated[
    str | None, typer.Option("--name", help="Dictionary in the run (default: diff-sae).")
]

# Until every command takes its options from the settings:
Layer = Annotated[
    str | None, typer.Option(help="block whose output is read: an index (15) or a fraction (0.5)")
]
Method = Annotated[
    list[str] | None, typer.Option(help="dictionary method, repeatable; `methods` lists them")
]
Sparsity = Annotated[str | None, typer.Option(help="activation function of the latents")]
Latents = Annotated[int | None, typer.Option(help="dictionary size, in latents")]
K = Annotated[
    str | None,
    typer.Option(help="mean active latents per token, may be below 1; auto: from the data"),
]
Mu = Annotated[float | None, typer.Option(help="weight of the penalty of l1, 0 or more")]
Anneal = Annotated[
    float | None, typer.Option(help="fraction of a training over which k falls to it, up to 0.5")
]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="option of the method, such as norm=unsquared; repeatable"),
]
Tokens = Annotated[int | None, typer.Option(help="training tokens per dictionary, with repeats")]
MaxTokens = Annotated[int | None, typer.Option(help="read at most so many tokens of the data")]
Context = Annotated[int | None, typer.Option(help="longest sequence, in tokens")]
Pack = Annotated[
    bool | None, typer.Option("--pack/--no-pack", help="fill every sequence up to the context")
]
Dtype = Annotated[str | None, typer.Option(help="stored activations: float32 or bfloat16")]
Seed = Annotated[int | None, typer.Option(help="seed of every random choice")]
Threads = Annotated[int | None, typer.Option(help="processor threads")]
Name = Annotated[
    list[str] | None, typer.Option("--name", help="dictionary in the run, repeatable; all of them")
]


UNSEEDED = ("threads", "device", "model_dtype", "local_files_only", "convert")
GENERAL = ("seed", *UNSEEDED)
"""Fields of `Settings` itself that a command without stages takes."""
SINGULAR = {"methods": "method", "options": "option", "counts": "count", "strengths": "strength"}
"""Options that are repeated are named for one of them."""


def with_settings(
    *kinds: type[Section], only: tuple[str, ...] | None = None, leave: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of some sections; the function takes them as ``given``.

    Args:
        *kinds: Sections; `Settings` itself stands for its own fields, seed and threads.
        only: The fields that become options; all if None.
        leave: Fields that do not.
    """
    fields: dict[str, FieldInfo] = {}
    for kind in kinds:
        for name, field in kind.model_fields.items():
            annotation = field.annotation
            is_section = isinstance(annotation, type) and issubclass(annotation, Section)
            if not is_section and name not in leave and (only is None or name in only):
                fields[name] = field

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(**arguments: Any) -> Any:
            values = {name: arguments.pop(name) for name in fields}
            given = _given(values, fields)
            try:
                return function(given=given, **arguments)
            except InputError as error:
                # A bad value is named as the option that it came from.
                field = str(error).partition(":")[0].partition(".")[0]
                if field not in given:
                    raise
                raise InputError(option_of(field) + str(error).removeprefix(field)) from error

        own = inspect.signature(function, eval_str=True).parameters.values()
        parameters = [each for each in own if each.name != "given"]
        place = next((i for i, each in enumerate(parameters) if each.name == "config"), None)
        made = [_parameter(name, field) for name, field in fields.items()]
        last = next((i for i, each in enumerate(parameters) if each.name == "as_json"), None)
        cut = next((i for i in (place, last) if i is not None), len(parameters))
        ordered = [*parameters[:cut], *made, *parameters[cut:]]
        ordered = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in ordered]
        vars(command)["__signature__"] = inspect.Signature(ordered)
        command.__annotations__ = {each.name: each.annotation for each in ordered}
        return command

    return decorate


def option_of(name: str) -> str:
    """Return the option of a field: ``--max-tokens`` for ``max_tokens``."""
    return "--" + SINGULAR.get(name, name).replace("_", "-")


def help_of(field: FieldInfo) -> str:
    """Return a field's line of help: description, repeatable or not, default."""
    said = (field.description or "").rstrip(".")
    notes = []
    if is_repeated(field):
        notes.append("repeatable")
    default = field.default
    if "(default" not in said and default is not None and not field.is_required():
        if field.default_factory is not None or default == ():
            pass
        elif isinstance(default, tuple):
            notes.append("default " + " ".join(map(str, default)))
        elif not isinstance(default, bool):
            notes.append(f"default {default}")
    return f"{said} ({'; '.join(notes)})." if notes else f"{said}."


def is_repeated(field: FieldInfo) -> bool:
    """Return whether an option may be given several times: its field holds several values."""
    return any(get_origin(each) in (tuple, dict) for each in _members(field.annotation))


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    flag = option_of(name)
    text = help_of(field)
    if field.annotation is bool:
        kind, names = bool | None, (f"{flag}/--no-{flag.removeprefix('--')}",)
    else:
        kind, names = (list[str] | None if is_repeated(field) else str | None), (flag,)
    option = typer.Option(
        *names, help=text, metavar=None if kind == bool | None else metavar_of(field)
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, option],
    )


def _given(values: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """Return what was given; options NAME=VALUE become one dict."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == []:
            continue
        if any(get_origin(each) is dict for each in _members(fields[name].annotation)):
            value = _named(option_of(name), value)
        given[name] = value
    return given


def _named(option: str, texts: list[str]) -> dict[str, Any]:
    """Read NAME=VALUE; a value that is a JSON number or boolean becomes one."""
    named: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InputError(f"{option} takes NAME=VALUE, not {text!r}")
        try:
            named[name] = parse_json(value)
        except ValueError:
            named[name] = value
    return named


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the one type that there is; None is left out."""
    if get_origin(annotation) in (Union, UnionType):
        return [each for each in get_args(annotation) if each is not NoneType]
    return [annotation]


def metavar_of(field: FieldInfo) -> str:
    """Return what values a field takes, as `--help` shows them."""
    names = {int: "INTEGER", float: "FLOAT", str: "TEXT"}
    found = []
    for each in _members(field.annotation):
        each = get_args(each)[0] if get_origin(each) is tuple else each
        if get_origin(each) is dict:
            found.append("NAME=VALUE")
        elif get_origin(each) is Literal:
            found += ["|".join(map(str, get_args(each)))]
        else:
            found.append(names.get(each, "TEXT"))
    return "|".join(dict.fromkeys(found))
