"""Claims: statements in fixed words, and in how many of the cases looked at they hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Count:
    """In how many (``n``) of the cases looked at something holds.

    It must in ``needed`` of them for a claim to hold; in all if that is not given.
    """

    n: int
    of: int
    needed: int | None = None

    @property
    def holds(self) -> bool:
        """Whether it holds in enough cases; in none of none it does not."""
        return self.of > 0 and self.n >= (self.of if self.needed is None else self.needed)


@dataclass(frozen=True)
class Claim:
    """A statement that a record confirms or refutes.

    The words are the same either way; only the count decides. Documents cite it by its key, such
    as ``boot-below-one``: pages, ``docs/findings.md`` and ``docs/paper_map.md`` read the same.
    """

    key: str
    text: str
    count: Count

    @property
    def holds(self) -> bool:
        """Whether the record confirms it."""
        return self.count.holds

    @property
    def verdict(self) -> str:
        """``holds, 228 of 228``, ``does not hold, 3 of 10`` or ``not looked at``."""
        if not self.count.of:
            return "not looked at"
        found = "holds" if self.holds else "does not hold"
        return f"{found}, {self.count.n:,} of {self.count.of:,}"


def count(cases: Iterable[bool], needed: float = 1.0) -> Count:
    """The count over cases; ``needed`` is the share of them that makes the claim hold."""
    values = [bool(case) for case in cases]
    return Count(sum(values), len(values), None if needed == 1.0 else round(needed * len(values)))
