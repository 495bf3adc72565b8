"""The static page of a run: one file that opens from disk and needs no network."""

from anaglyph.report.build import build

__all__ = ["build"]
