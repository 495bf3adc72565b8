"""The command that scores prompts by how the fine-tune's change acts on them."""

import json
from typing import Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import asked_prompts, reopen
from anaglyph.cli.direct_common import split
from anaglyph.cli.options import GENERAL, AsJson, Prompts, Run, with_settings
from anaglyph.cli.terminal import Bars, say, table_text
from anaglyph.core.settings import Settings, WatchSettings


@app.command("watch")
@with_settings(WatchSettings, Settings, only=(*WatchSettings.model_fields, *GENERAL))
def watch_command(
    run: Run,
    given: dict[str, Any],
    prompt: Annotated[list[str] | None, typer.Option(help="A user turn; repeatable.")] = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Score how unusually each prompt activates the fine-tune's weight change."""
    from anaglyph.run.watch import watch

    settings, given = split(WatchSettings, given)
    asked = asked_prompts(prompt, prompts)
    with Bars() as progress:
        found = watch(reopen(run, progress, **given), settings)
        table = found.look(asked)
    if as_json:
        said = {"threshold": found.threshold, "prompts": table.to_dicts()}
        say(json.dumps(said, indent=2))
        return
    shown = table.sort("z", descending=True, maintain_order=True)
    say(table_text(shown.to_dicts()))
    count = int(table["alarm"].sum())
    say(
        f"{count} of {len(table)} prompts raise the alarm: z above {found.threshold:.3g}, which "
        f"{settings.false_alarms:.2g} of generic prompts may pass."
    )
