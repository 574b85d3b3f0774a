"""Looking things up in the records of studies."""

from __future__ import annotations

from typing import Any

from opmerge.page.claims import Claim
from opmerge.page.study import Told

Record = dict[str, Any]


def rows(record: Record, table: str, **where: Any) -> list[Record]:
    """The rows of a table that have these values."""
    return [
        row
        for row in record["tables"][table]
        if all(row[key] == value for key, value in where.items())
    ]


def claims(told: Told) -> dict[str, Claim]:
    """What a study claims, by key."""
    return {claim.key: claim for claim in told.claims}


def counts(told: Told) -> dict[str, tuple[int, int]]:
    """Of each claim: in how many cases it holds, of how many."""
    return {claim.key: (claim.count.n, claim.count.of) for claim in told.claims}
