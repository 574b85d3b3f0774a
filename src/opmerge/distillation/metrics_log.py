"""``metrics.jsonl``: one line an iteration that is logged, in step with the checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opmerge.files import write_atomic

__all__ = ["MetricsLog"]


class MetricsLog:
    """Appends lines; what a killed run logged beyond its checkpoint is dropped first.

    Args:
        path: the file.
        step: iterations of the run that are done; later lines are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [] if not path.exists() else path.read_text(encoding="utf-8").splitlines(True)
        write_atomic(path, "".join(line for line in kept if _step_of(line) <= step))
        self._stream = path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Append one line; ``step`` must be among the values."""
        self._stream.write(json.dumps(values) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _step_of(line: str) -> float:
    """Step of a line, infinite for one that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return float("inf")
