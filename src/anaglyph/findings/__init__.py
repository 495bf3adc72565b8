"""What differs inside two models: typed findings, each sized and tested."""

from anaglyph.findings.find import find, first_look, search
from anaglyph.findings.nil import difference_is_nil
from anaglyph.findings.shown_by import with_dictionaries

__all__ = ["difference_is_nil", "find", "first_look", "search", "with_dictionaries"]
