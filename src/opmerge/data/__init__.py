"""Sources of data: built-in samples, array files and folders of images, read in batches."""

from __future__ import annotations

from opmerge.data.records import Progress, Source, SourceOptions
from opmerge.data.sources import BUILTIN_SOURCES, open_source

__all__ = ["BUILTIN_SOURCES", "Progress", "Source", "SourceOptions", "open_source"]
