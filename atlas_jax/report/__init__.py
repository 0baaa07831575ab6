"""The report of a run: its numbers, plots and texts as one self-contained HTML page."""

from atlas_jax.report.page import render_report, save_report

__all__ = ["render_report", "save_report"]
