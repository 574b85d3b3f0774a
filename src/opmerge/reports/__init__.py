"""Reports: figures, tables and one self-contained page, drawn from records alone."""

from __future__ import annotations

from opmerge.reports.page import report_page
from opmerge.reports.sentences import summary_sentence

__all__ = ["report_page", "summary_sentence"]
