"""Results of long work that are kept in files, each under the identity of what it depends on.

Unlike a cell of ``Runner.sweep``, such a file outlives changes of the code: what took hours to
train is trained again only where its settings or its data are others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from opmerge.files import write_atomic

__all__ = ["cached", "digest", "read_cached"]

Result = dict[str, Any]


def cached(
    path: Path,
    identity: str,
    compute: Callable[[], Result],
    is_whole: Callable[[Result], bool] = lambda result: True,
) -> Result:
    """The result in a file if it is of this identity and whole; else it is computed and written.

    Args:
        path: of the file: the result, with its ``identity`` and ``digest`` beside its values.
        identity: of all that the result depends on.
        compute: gives JSON values.
        is_whole: whether the files that the result tells of are still there.
    """
    result = read_cached(path, identity)
    with suppress(OSError):
        if result is not None and is_whole(result):
            return result
    result = compute()
    content = {**result, "identity": identity, "digest": digest(result)}
    write_atomic(path, json.dumps(content, allow_nan=False) + "\n")
    return result


def read_cached(path: Path, identity: str) -> Result | None:
    """The result in a file; None where there is none of this identity, or it is damaged."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        content: Result = json.loads(path.read_text(encoding="utf-8"))
        marks = content.pop("identity"), content.pop("digest")
        if marks == (identity, digest(content)):
            return content
    return None


def digest(content: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
