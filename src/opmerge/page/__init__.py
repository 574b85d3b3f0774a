"""Reports: figures, tables and one self-contained page, drawn from records alone."""

from __future__ import annotations

from opmerge.page.plan import report_page
from opmerge.page.sentences import summary_sentence

__all__ = ["report_page", "summary_sentence"]
