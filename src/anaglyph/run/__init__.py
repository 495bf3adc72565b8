"""The whole way from two models to a report, stage by stage, in a folder that can be resumed."""

from anaglyph.core.settings import DiffConfig, load_config
from anaglyph.run.direct import keep_tables, write_tables
from anaglyph.run.folder import RunFolder
from anaglyph.run.pipeline import diff
from anaglyph.run.stages import Workbench

__all__ = [
    "DiffConfig",
    "RunFolder",
    "Workbench",
    "diff",
    "keep_tables",
    "load_config",
    "write_tables",
]
