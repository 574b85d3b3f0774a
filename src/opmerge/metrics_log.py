"""``metrics.jsonl`` of a run directory: a line an iteration that is logged, as checkpoints go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opmerge.errors import InputError
from opmerge.files import GO_ON, write_atomic


class MetricsLog:
    """Appends lines; what a killed run logged beyond its checkpoint is dropped first.

    Args:
        step: iterations of the run that are done; later lines are removed.

    Raises:
        InputError: here and from ``write``, if it cannot be written.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        try:
            kept = path.read_text(encoding="utf-8").splitlines(True) if path.exists() else []
            write_atomic(path, "".join(line for line in kept if _step_of(line) <= step))
            self._stream = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, **values: Any) -> None:
        """Append one line; ``step`` must be among the values."""
        try:
            self._stream.write(json.dumps(values) + "\n")
            self._stream.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(str(self._path), f"cannot be written ({error.strerror})", remedy=GO_ON)


def _step_of(line: str) -> float:
    """Step of a line, infinite for one that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return float("inf")
