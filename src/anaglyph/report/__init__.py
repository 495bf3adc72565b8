"""Pages for people: a run's report and the benchmark's table, built from artifacts alone."""

from anaglyph.report.benchmark import build_benchmark
from anaglyph.report.build import build

__all__ = ["build", "build_benchmark"]
