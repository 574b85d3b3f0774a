"""Looking things up in the records of studies."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


def rows(record: Record, table: str, **where: Any) -> list[Record]:
    """The rows of a table that have these values."""
    return [
        row
        for row in record["tables"][table]
        if all(row[key] == value for key, value in where.items())
    ]
