"""Charts, the summary and the self-contained report of an evaluation."""

from whisper_router.report.charts import draw_frontier
from whisper_router.report.words import CHOICE_NAMES, CHOICES, DEMO_NOTE, is_demo, percent, summary

__all__ = ["CHOICES", "CHOICE_NAMES", "DEMO_NOTE", "draw_frontier", "is_demo", "percent", "summary"]
