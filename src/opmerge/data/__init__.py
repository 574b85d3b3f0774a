"""Sources of data: built-in samples, array files and folders of images, read in batches."""

from __future__ import annotations

from opmerge.data.resolve import BUILTIN_SOURCES, open_source
from opmerge.data.source import Progress, Source
from opmerge.settings.data import SourceOptions

__all__ = ["BUILTIN_SOURCES", "Progress", "Source", "SourceOptions", "open_source"]
