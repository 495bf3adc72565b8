"""The pages: a run's report and the benchmark's table, made from files only."""

from anaglyph.report.benchmark import build_benchmark
from anaglyph.report.build import build

__all__ = ["build", "build_benchmark"]
