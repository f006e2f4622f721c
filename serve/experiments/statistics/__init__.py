"""What an experiment shows: effects with intervals that may be looked at daily, guardrails, a decision."""

from serve.experiments.statistics.analysis import analyse
from serve.experiments.statistics.report import Report

__all__ = ["Report", "analyse"]
