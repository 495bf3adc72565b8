"""The options that commands share, each with its help line."""

from pathlib import Path
from typing import Annotated

import typer

Base = Annotated[str, typer.Argument(help="base model: a folder, a hub id or a .gguf file")]
Tuned = Annotated[str, typer.Argument(help="its fine-tune: the same, or a PEFT adapter folder")]
Run = Annotated[Path, typer.Argument(help="a run folder, as `diff` or `collect` made it")]
Data = Annotated[
    list[str],
    typer.Option(help="text, JSONL of chats, a folder of these, or builtin:NAME; repeatable"),
]
Out = Annotated[Path, typer.Option(help="run folder; an unfinished run in it is continued")]
Config = Annotated[
    Path | None, typer.Option(help="JSON or TOML file of settings; options given here win")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object for machines")]
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
