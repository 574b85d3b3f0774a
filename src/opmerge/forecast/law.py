"""The law of merges: what N iterations leave of a merge's deviation, by group of directions.

Parts of a deviation are learned at rates k ~ Gamma(a, x), so that of an amplitude r = exp(-k)

    E[r] = (1 + x)^-a,    E[r²] = (1 + 2x)^-a,    x = θ (N / 400) φ^-q

is left, φ the angle of the jump: ``arctan(sigma/alpha)`` at its start less that at its stop. A long
jump is learned slowly. Training adds ``f² 400/N`` by itself. It was found on MLPs and fitted to
probes (THEORY 10); ``FittedLaw`` carries how sure they are of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.checks import check_number
from opmerge.errors import InputError

Array = NDArray[np.float64]

REFERENCE_ITERATIONS = 400.0
"""N at which the rates θ and the floor f are stated."""

_NUM_DRAWS = 32  # of a prior


@dataclass(frozen=True)
class MergeLaw:
    """What training leaves.

    Args:
        rates: (G,) θ > 0 of each group of directions.
        first: factor > 0 on x in merges that start at step T, where networks know z least.
        behind: students behind the first child make x larger by the factor
            ``exp(behind · share)``, share that of their steps in those behind the first child:
            what is hard to learn, they did not learn either.
        shape: a > 0.
        length_exponent: q >= 0.
        floor: f >= 0, root mean square of x̂, all directions together.

    Raises:
        InputError: for a value out of range.
    """

    rates: tuple[float, ...]
    first: float = 1.0
    behind: float = 0.0
    shape: float = 0.6
    length_exponent: float = 1.6
    floor: float = 0.02

    def __post_init__(self) -> None:
        for rate in (*self.rates, self.first, self.shape):
            if not 0 < check_number("law", rate) < 1e30:
                raise InputError("law", "must have rates, first and shape above 0", rate)
        for name in ("behind", "length_exponent", "floor"):
            value = check_number(f"law.{name}", getattr(self, name))
            if not (name == "behind" or value >= 0):
                raise InputError(f"law.{name}", "must be >= 0", value)
        if not self.rates:
            raise InputError("law.rates", "must not be empty", self.rates)

    def for_groups(self, count: int) -> MergeLaw:
        """The law with a rate for each of so many groups; a single rate is that of all."""
        if len(self.rates) == count:
            return self
        if len(self.rates) > 1:
            raise InputError("law.rates", f"must be 1 or {count}, as the table's", len(self.rates))
        return MergeLaw(**{**asdict(self), "rates": self.rates * count})

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as ``from_dict`` reads them."""
        return {**asdict(self), "rates": list(self.rates)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MergeLaw:
        """Read ``to_dict``, or raise ``InputError``."""
        known = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != known:
            raise InputError("law", f"must have {', '.join(sorted(known))}", data)
        if not isinstance(data["rates"], Sequence):
            raise InputError("law.rates", "must be a list", data["rates"])
        return cls(**{**data, "rates": tuple(data["rates"])})


@dataclass(frozen=True)
class FittedLaw:
    """A law, and others that its probes allow as well.

    Args:
        law: the most likely one.
        draws: of its parameters, from their distribution given the probes (or a prior); a forecast
            is made with each, and the forecast's interval is that of theirs.
        scatter: standard deviation of log(measured / forecast), beyond that of the draws, of
            unsquared errors of whole plans.
        source: what it was fitted to, in words.
    """

    law: MergeLaw
    draws: tuple[MergeLaw, ...]
    scatter: float
    source: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as ``from_dict`` reads them."""
        return {
            "law": self.law.to_dict(),
            "draws": [law.to_dict() for law in self.draws],
            "scatter": self.scatter,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FittedLaw:
        """Read ``to_dict``, or raise ``InputError``."""
        if not isinstance(data, Mapping) or not {"law", "draws", "scatter"} <= set(data):
            raise InputError("law", "must have law, draws and scatter", data)
        scatter = check_number("law.scatter", data["scatter"])
        draws = tuple(map(MergeLaw.from_dict, data["draws"]))
        law = MergeLaw.from_dict(data["law"])
        return cls(law, draws, scatter, str(data.get("source", "")))


def _prior(
    source: str, centre: MergeLaw, spreads: Mapping[str, float], scatter: float
) -> FittedLaw:
    """A law of which the logarithms of parameters are known to these standard deviations."""
    rng, draws = np.random.default_rng(0), []
    for _ in range(_NUM_DRAWS):
        changed: dict[str, Any] = {}
        for name, spread in spreads.items():
            factor = float(np.exp(spread * rng.standard_normal()))
            value = getattr(centre, name)
            is_rates = isinstance(value, tuple)
            changed[name] = tuple(factor * rate for rate in value) if is_rates else factor * value
        draws.append(MergeLaw(**{**asdict(centre), **changed}))
    return FittedLaw(centre, tuple(draws), scatter, source)


_WIDE = {"rates": 1.0, "shape": 0.3, "length_exponent": 0.15, "floor": 0.7}

PRIORS: Mapping[str, FittedLaw] = {
    "mlp": _prior(
        "the prior of MLPs: digits and patches, T = 32",
        MergeLaw((3.9,), behind=0.3, shape=0.7, length_exponent=1.6, floor=0.03),
        _WIDE,
        0.2,
    ),
}
"""Laws to plan with before a probe is trained, by the kind of network."""
