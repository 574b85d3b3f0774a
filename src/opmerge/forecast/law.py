"""The law of merges: what N iterations leave of a merge's deviation, by group of directions.

Parts of a deviation are learned at rates k ~ Gamma(a, x), so that of an amplitude r = exp(-k)

    E[r] = w + (1 - w) (1 + x)^-a,      x = θ (N / 400) φ^-q (100 s)^e,
    E[r²] = w + (1 - w) (1 + 2x)^-a,    w = s exp(-N / N₀)

is left, φ the angle of the jump: ``arctan(sigma/alpha)`` at its start less that at its stop, and s
the share that a direction has of the squared deviation of the whole jump. A long jump is learned
slowly, and so is what makes little of the loss; what makes most of it waits for its onset, N₀
iterations. It was found on MLPs and fitted to probes and
plans (THEORY 10); ``FittedLaw`` carries how sure they are of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.checks import check_number
from opmerge.errors import InputError

Array = NDArray[np.float64]

REFERENCE_ITERATIONS = 400.0
"""N at which the rates θ are stated."""

_NUM_DRAWS = 32
_FARTHEST = 60.0  # logarithm of a parameter
_RANGES = {  # far beyond any network, and nothing overflows
    "rates": (0.0, 1e30),
    "first": (0.0, 1e30),
    "behind": (-20.0, 20.0),
    "share_exponent": (-10.0, 10.0),
    "shape": (0.0, 1e30),
    "length_exponent": (0.0, 10.0),
    "onset": (0.0, 1e30),
    "scatter": (0.0, 10.0),
}
_POSITIVE = ("rates", "first", "shape")
_MOST_DRAWS = 10_000
LEAST_ONSET = 1e-9
"""Iterations: as good as none."""
# as a vector has them: the first and the last three by their logarithms
_SHARED = ("first", "behind", "share_exponent", "shape", "length_exponent", "onset")


def progress(
    rates: Array, factor: Array | float, length_exponent: Array | float, angle: Any, iterations: Any
) -> Array:
    """x of each group of directions, after so many iterations of a jump of an angle in radians.

    The factor is that of the first step, of students behind and of shares; all broadcast.
    """
    x: Array = rates * factor * (iterations / REFERENCE_ITERATIONS) * angle**-length_exponent
    return x


def waiting(shares: Array, onset: Any, iterations: Any) -> Array:
    """w of directions with these shares of a jump, in percent; all broadcast."""
    w: Array = shares / 100 * np.exp(-iterations / np.maximum(onset, LEAST_ONSET))
    return w


def kept(shape: Any, x: Array, waiting: Array) -> tuple[Array, Array]:
    """E[r] and E[r²] of directions of which parts ``waiting`` = w are not yet learned; all
    broadcast."""
    amplitude: Array = waiting + (1 - waiting) * (1 + x) ** -shape
    square: Array = waiting + (1 - waiting) * (1 + 2 * x) ** -shape
    return amplitude, square


@dataclass(frozen=True)
class MergeLaw:
    """What training leaves.

    Args:
        rates: (G,) θ of each group of directions, above 0 and at most 1e30.
        first: factor on x in merges that start where the first network of a student does, at step
            T or where a free step lands; above 0 and at most 1e30.
        behind: students behind the first child make x larger by the factor
            ``exp(behind · share)``, share that of their steps in those behind the first child:
            what is hard to learn, they did not learn either. From -20 to 20.
        shape: a, above 0 and at most 1e30.
        length_exponent: q from 0 to 10.
        share_exponent: e from -10 to 10; laws of before it was known have 0.
        onset: N₀ from 0 to 1e30, iterations; laws of before it was known have 0.

    Raises:
        InputError: for a value out of range.
    """

    rates: tuple[float, ...]
    first: float = 1.0
    behind: float = 0.0
    shape: float = 0.6
    length_exponent: float = 1.6
    share_exponent: float = 0.0
    onset: float = 0.0

    def __post_init__(self) -> None:
        if not self.rates:
            raise InputError("law.rates", "must not be empty", self.rates)
        for rate in self.rates:
            _check("rates", rate)
        for name in _SHARED:
            _check(name, getattr(self, name))

    def for_groups(self, count: int) -> MergeLaw:
        """The law with a rate for each of so many groups; a single rate is that of all, and
        another number of them an ``InputError``."""
        if len(self.rates) == count:
            return self
        if len(self.rates) > 1:
            raise InputError("law.rates", f"must be 1 or {count}, as the table's", len(self.rates))
        return MergeLaw(**{**asdict(self), "rates": self.rates * count})

    def to_vector(self) -> Array:
        """(G + 6,) logarithms of the rates and of ``first``, ``behind`` and the exponent of the
        share themselves, and logarithms of the shape, the exponent of the length and the onset:
        coordinates in which a law is fitted and drawn."""
        least = np.finfo(np.float64).tiny
        last = self.shape, self.length_exponent, self.onset
        logs = np.log(np.maximum(last, least))
        plain = self.behind, self.share_exponent
        vector: Array = np.array([*np.log((*self.rates, self.first)), *plain, *logs])
        return vector

    @classmethod
    def from_vector(cls, vector: Array) -> MergeLaw:
        """The law of a ``to_vector`` (G + 6,)."""
        values = np.exp(np.clip(vector, -_FARTHEST, _FARTHEST)).tolist()
        behind = float(np.clip(vector[-5], *_RANGES["behind"]))
        share = float(np.clip(vector[-4], *_RANGES["share_exponent"]))
        shape, length_exponent, onset = values[-3:]
        length_exponent = min(length_exponent, _RANGES["length_exponent"][1])
        rates, first = tuple(values[:-6]), values[-6]
        return cls(rates, first, behind, shape, length_exponent, share, onset)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as ``from_dict`` reads them."""
        return {**asdict(self), "rates": list(self.rates)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MergeLaw:
        """Read ``to_dict``, or raise ``InputError``.

        Earlier versions knew no exponent of shares and no onset, and had a floor, what training
        adds by itself in ``1/N``: where it told, merges of a few iterations, it was wrong.
        """
        known = {field.name for field in fields(cls)}
        if isinstance(data, Mapping):
            data = {"share_exponent": 0.0, "onset": 0.0, **data}
            data.pop("floor", None)
        if not isinstance(data, Mapping) or set(data) != known:
            raise InputError("law", f"must have {', '.join(sorted(known))}", data)
        if not isinstance(data["rates"], Sequence):
            raise InputError("law.rates", "must be a list", data["rates"])
        return cls(**{**data, "rates": tuple(data["rates"])})


def _check(name: str, value: object) -> float:
    """A parameter in its range, or ``InputError``."""
    number, (low, high) = check_number(f"law.{name}", value), _RANGES[name]
    if not low <= number <= high or (number == low and name in _POSITIVE):
        least = f"above {low:g} and at most" if name in _POSITIVE else f"from {low:g} to"
        raise InputError(f"law.{name}", f"must be {least} {high:g}", number)
    return number


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
        scatter, law = _check("scatter", data["scatter"]), MergeLaw.from_dict(data["law"])
        if not isinstance(data["draws"], list) or len(data["draws"]) > _MOST_DRAWS:
            raise InputError("law.draws", f"must be a list of at most {_MOST_DRAWS:,} laws")
        draws = tuple(map(MergeLaw.from_dict, data["draws"]))
        for draw in draws:
            if len(draw.rates) != len(law.rates):
                need = f"must have {len(law.rates)} rates each, as the law"
                raise InputError("law.draws", need, len(draw.rates))
        return cls(law, draws, scatter, str(data.get("source", "")))


@dataclass(frozen=True)
class LawPrior:
    """What is known of a kind of network's law before a probe is trained.

    Args:
        centre: the most likely law, with one rate for all groups.
        spreads: standard deviations: of the logarithms of ``rates`` (of all groups together),
            ``groups`` (of each beside the others), ``first``, ``shape``, ``length_exponent``,
            and ``onset``, and of ``behind`` and ``share_exponent`` themselves.
        scatter: as of ``FittedLaw``.
        source: as of ``FittedLaw``.
        noise: standard deviation of the logarithm of what a probe leaves. It is larger than probes
            show where a law that keeps closer to them foretells plans worse.
        dimensions: D of data on which rates are those of the centre, of networks that share their
            weights over positions. There it is not known whether a direction is learned by its
            share alone or by that beside an average one's, for which rates on data of D' values
            would be ``(D'/D)^share_exponent`` times as large: they are taken to be the root of
            that, and the logarithms' standard deviation is larger by half of its.
    """

    centre: MergeLaw
    spreads: Mapping[str, float]
    scatter: float
    source: str
    noise: float = 0.15
    dimensions: float | None = None

    def moments(self, sizes: ArrayLike) -> tuple[Array, Array]:
        """(G + 6,) mean and covariance of a law's ``to_vector``, for (G,) sizes of groups of
        directions."""
        count, mean = len(np.atleast_1d(sizes)), self.law_for(sizes).to_vector()
        own = [self.spreads["groups"] if count > 1 else 0.0] * count
        covariance: Array = np.diag([*own, *(self.spreads[name] for name in _SHARED)]) ** 2
        covariance[:count, :count] += self.spreads["rates"] ** 2 + np.log(self._faster(sizes)) ** 2
        return mean, covariance

    def law_for(self, sizes: ArrayLike) -> MergeLaw:
        """The most likely law of data with (G,) sizes of groups of directions."""
        rates = tuple(self._faster(sizes) * rate for rate in self.centre.rates)
        return replace(self.centre, rates=rates).for_groups(len(np.atleast_1d(sizes)))

    def _faster(self, sizes: ArrayLike) -> float:
        """Rates beside those of the centre."""
        if self.dimensions is None:
            return 1.0
        return float((np.sum(sizes) / self.dimensions) ** (self.centre.share_exponent / 2))

    def fitted(self, sizes: ArrayLike) -> FittedLaw:
        """The law that is planned with, and draws from the prior, for (G,) sizes of groups."""
        mean, covariance = self.moments(sizes)
        root = np.linalg.cholesky(covariance).astype(np.float64)
        draws = draw_laws(mean, root)
        return FittedLaw(self.law_for(sizes), draws, self.scatter, self.source)


def draw_laws(mean: Array, root: Array) -> tuple[MergeLaw, ...]:
    """Laws whose vectors are ``mean + root ξ``, ξ standard normal; always the same ξ."""
    normal = np.random.default_rng(0).standard_normal((_NUM_DRAWS, root.shape[1]))
    return tuple(MergeLaw.from_vector(mean + root @ each) for each in normal)


LAW_PRIORS: Mapping[str, LawPrior] = {
    "mlp": LawPrior(
        MergeLaw((4.0,), first=0.7, behind=0.45, shape=0.65, length_exponent=1.5, onset=1.0),
        dict(
            rates=0.8,
            groups=1.5,  # within a factor of two on digits, of a thousand on patches
            first=0.5,
            behind=0.3,
            share_exponent=0.05,
            shape=0.2,
            length_exponent=0.15,
            onset=2.0,
        ),
        0.15,
        "the prior of perceptrons, linear part trained: digits and patches, T = 32",
    ),
    "mlp-solved": LawPrior(
        MergeLaw((2.21,), 1.5, 1.49, 0.379, 0.046, share_exponent=1.37, onset=77.0),
        dict(
            rates=1.2,
            groups=0.5,
            first=1.0,
            behind=0.3,
            share_exponent=0.2,
            shape=0.1,
            length_exponent=0.9,
            onset=0.5,
        ),
        0.15,
        "the prior of perceptrons, linear part solved: 319 plans of four data sets, T = 32",
        noise=0.3,
    ),
    "unet": LawPrior(
        MergeLaw((5.57,), 1.5, 1.12, 0.531, 0.039, share_exponent=1.35, onset=13.4),
        dict(
            rates=1.2,
            groups=0.5,
            first=1.0,
            behind=0.3,
            share_exponent=0.3,
            shape=0.1,
            length_exponent=0.9,
            onset=1.0,
        ),
        0.2,
        "the prior of UNets: 126 plans of a small one on digits and CIFAR-10, T = 32",
        dimensions=64,
    ),
}
"""What fits start from, by the kind of network.

Rates, the factor of the first step and the exponent of the length are as wide as fits to single
data sets are apart (``python -m benchmarks.law``); the other widths are guesses.
"""

DEFAULT_PRIOR = "unet"
"""The kind of network that stands for all of which nothing is known."""

PRIORS: Mapping[str, FittedLaw] = {
    name: prior.fitted(prior.dimensions or 1) for name, prior in LAW_PRIORS.items()
}
"""Laws to plan with before a probe is trained, by the kind of network, for data like theirs."""
