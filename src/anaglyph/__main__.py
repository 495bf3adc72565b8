"""`python -m anaglyph` is the command line."""

from anaglyph.cli import main

main()
