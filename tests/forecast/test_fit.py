"""A law fitted to probes that a known law made, and what the fit says of its own uncertainty."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from opmerge import InputError
from opmerge.forecast import LAW_PRIORS, LawFit, MergeLaw, MergeProbe, fit_law

STEPS = 32
SIZES = np.array([1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
PRIOR = LAW_PRIORS["mlp"]
TRUTH = MergeLaw(
    (9.0, 6.0, 4.0, 3.0, 2.0, 1.5, 0.8),
    first=0.6,
    behind=0.5,
    shape=0.6,
    length_exponent=1.7,
    share_exponent=0.04,
    onset=30.0,  # not told by probes of 100 iterations: as likely as the prior has it
)
JUMPS = [(32, 0, 0), (32, 24, 0), (32, 16, 0), (16, 0, 0), (16, 8, 0), (8, 0, 0), (32, 30, 0)]
JUMPS += [(32, 0, 4), (16, 0, 2)]


def left(
    law: MergeLaw, before: NDArray[np.float64], merge: tuple[int, int, int], count: int
) -> NDArray[np.float64]:
    """What the docstring of ``MergeLaw`` says is left, written out."""
    start, stop, students = merge
    angle = math.pi * (start - stop) / (2 * STEPS)
    factor = (law.first if start == STEPS else 1.0) * math.exp(law.behind if students else 0.0)
    shares = before / before.sum() / SIZES
    x = np.array(law.rates) * factor * count / 400 * angle**-law.length_exponent
    x *= (100 * shares) ** law.share_exponent
    waits = shares * np.exp(-count / law.onset)
    return before * (waits + (1 - waits) * (1 + 2 * x) ** -law.shape)


def probes(law: MergeLaw = TRUTH, noise: float = 0.0, seed: int = 0) -> list[MergeProbe]:
    """Two counts of each jump, with log-normal errors of the unsquared deviations left."""
    rng = np.random.default_rng(seed)
    made = []
    for merge in JUMPS:
        start, stop, students = merge
        before = 0.3 * (math.pi * (start - stop) / 64) ** 2 * SIZES**0.5
        for count in (100, 400):
            after = left(law, before, merge, count) * math.exp(2 * noise * rng.standard_normal())
            angle, is_first = math.pi * (start - stop) / 64, start == STEPS
            share = 1.0 if students else 0.0
            shares = 100 * before / before.sum() / SIZES
            made.append(MergeProbe(merge, angle, is_first, share, count, before, after, shares))
    return made


def fitted(chosen: list[MergeProbe]) -> LawFit:
    return fit_law(chosen, SIZES, PRIOR, "synthetic")


def test_probes_of_a_law_give_it_back() -> None:
    """Without noise what is left is foretold to 4 %, for the prior pulls; and to less than 1 %
    where there are many of each, which pull harder."""
    fit = fitted(probes())
    assert np.log(fit.foretold) == pytest.approx(0, abs=0.04)
    assert np.log(fitted(probes() * 30).foretold) == pytest.approx(0, abs=0.01)
    assert fit.law.source == "synthetic"
    point = TRUTH.to_vector()
    spread = np.std([law.to_vector() for law in fit.law.draws], axis=0)
    apart = np.abs(fit.law.law.to_vector() - point)
    assert (apart < 2 * spread).all()


def test_the_truth_lies_within_the_draws() -> None:
    """z² = (truth - fit)² / variance over 20 fits of 13 parameters has mean 1, if draws are right;
    its own standard deviation is √(2/20/13 · …) ≈ 0.1 for independent ones, here 0.3 at most."""
    squares = []
    for seed in range(20):
        law = fitted(probes(noise=0.15, seed=seed)).law
        draws = np.array([each.to_vector() for each in law.draws])
        squares.append(((law.law.to_vector() - TRUTH.to_vector()) / draws.std(axis=0)) ** 2)
    mean = np.mean(squares)
    assert 0.3 < mean < 2.0


def test_no_probes_are_the_prior_and_each_narrows_it() -> None:
    prior = fitted([])
    assert prior.law.to_dict() == PRIOR.fitted(SIZES).to_dict()
    assert (prior.held_out_error, prior.foretold) == (0.0, ())

    def width(fit: LawFit) -> float:
        """Log of the volume of the draws, by their covariance with the prior's as the unit."""
        vectors = np.array([each.to_vector() for each in fit.law.draws])
        return float(np.linalg.slogdet(np.cov(vectors.T))[1])

    every = probes()
    widths = [width(fitted(every[:count])) for count in (0, 2, 6, 12, len(every))]
    assert all(after < before for before, after in pairwise(widths))


def test_what_no_probe_shows_stays_as_the_prior_has_it() -> None:
    """No probe at T and none of students: ``first`` and ``behind`` keep their prior's moments."""
    below = [probe for probe in probes() if not probe.is_first and not probe.share]
    vectors = np.array([each.to_vector() for each in fitted(below).law.draws])
    prior = np.array([each.to_vector() for each in PRIOR.fitted(SIZES).draws])
    for at in (len(SIZES), len(SIZES) + 1):
        # 32 draws: 13 % of a standard deviation, and 18 % of a mean in units of it
        assert vectors[:, at].std() == pytest.approx(prior[:, at].std(), rel=0.4)
        assert vectors[:, at].mean() == pytest.approx(
            PRIOR.fitted(SIZES).law.to_vector()[at], abs=0.6 * prior[:, at].std()
        )


def test_held_out_probes_are_foretold_without_their_merge() -> None:
    """The fit without a merge's probes, made by hand, is what the record says of them, but for the
    offset, which is no part of the law and the same in both probes of the merge."""
    every = probes(noise=0.1)
    fit = fitted(every)
    others = fitted([probe for probe in every if probe.merge != (32, 0, 0)]).law.law
    offsets = [
        ratio
        / math.sqrt(
            left(others, probe.before, probe.merge, int(probe.iterations)).sum() / probe.after.sum()
        )
        for probe, ratio in zip(every, fit.held_out, strict=True)
        if probe.merge == (32, 0, 0)
    ]
    assert offsets[1] == pytest.approx(offsets[0], rel=1e-3)
    assert abs(math.log(offsets[0])) < 0.25
    weights = np.sqrt([probe.after.sum() for probe in every])
    mean = np.average(np.log(fit.held_out) ** 2, weights=weights)
    assert fit.held_out_error == pytest.approx(math.sqrt(mean))
    assert mean > np.average(np.log(fit.foretold) ** 2, weights=weights)


def test_a_law_goes_through_its_vector() -> None:
    again = MergeLaw.from_vector(TRUTH.to_vector())
    assert np.array(again.to_dict()["rates"]) == pytest.approx(TRUTH.rates, rel=1e-12)
    for name in ("first", "behind", "shape", "length_exponent", "onset"):
        assert getattr(again, name) == pytest.approx(getattr(TRUTH, name), rel=1e-12)


def test_probes_that_do_not_fit() -> None:
    (probe, *_) = probes()
    with pytest.raises(InputError, match="`probes` must have 6 groups, got 7"):
        fit_law([probe], SIZES[:6], PRIOR, "")
    still = MergeProbe((2, 0, 0), 1.0, False, 0.0, 1, np.zeros(7), np.ones(7), np.ones(7))
    with pytest.raises(InputError, match="`probes` must start and end off their target"):
        fit_law([still], SIZES, PRIOR, "")


def test_what_all_probes_have_in_common_is_no_part_of_the_law() -> None:
    """Probes that leave 20 % more at once are fitted as well, and the law moves by less than that:
    most of it is taken for their own."""
    own, more = fitted(probes()), [replace(p, after=1.2**2 * p.after) for p in probes()]
    fit = fitted(more)
    assert np.log(fit.foretold) == pytest.approx(0, abs=0.05)
    moved = [
        left(fit.law.law, p.before, p.merge, int(p.iterations)).sum()
        / left(own.law.law, p.before, p.merge, int(p.iterations)).sum()
        for p in more
    ]
    assert 0 < 0.5 * np.mean(np.log(moved)) < 0.5 * math.log(1.2)


def test_of_shared_weights_it_is_open_whether_shares_count_beside_the_average() -> None:
    """The same share of 48 times as many values is 48 times that of an average direction: of this
    factor of the rates the root, and half of its logarithm as more of a standard deviation."""
    prior = LAW_PRIORS["unet"]
    assert prior.dimensions == 64
    few, many = np.array([4.0, 60.0]), np.array([4.0, 60.0, 3008.0])
    assert prior.law_for(few) == prior.centre.for_groups(2)
    half = prior.centre.share_exponent / 2
    rates = np.array(prior.law_for(many).rates) / prior.centre.rates
    assert rates == pytest.approx(3 * [48**half], rel=1e-12)
    assert prior.fitted(many).law == prior.law_for(many)
    mean, covariance = prior.moments(many)
    assert mean == pytest.approx(prior.law_for(many).to_vector(), rel=1e-12)
    more = covariance - prior.moments([20.0, 20.0, 24.0])[1]
    assert more[:3, :3] == pytest.approx(np.full((3, 3), (half * np.log(48)) ** 2), rel=1e-9)
    assert not more[3:].any()
    perceptrons = LAW_PRIORS["mlp-solved"]
    assert perceptrons.law_for(many) == perceptrons.centre.for_groups(3)
