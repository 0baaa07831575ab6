"""The report of a run: its numbers, plots and texts as one self-contained HTML page."""

from atlas_jax.report.page import render_report, save_report
from atlas_jax.report.plots import save_plots

__all__ = ["render_report", "save_plots", "save_report"]
