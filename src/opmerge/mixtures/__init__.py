"""Gaussian mixtures: their exact denoiser, and students of the same form (THEORY 9)."""

from opmerge.mixtures.expectation import (
    Nodes,
    quadrature_nodes,
    sampled_nodes,
    weighted_distance,
    weighted_w2,
)
from opmerge.mixtures.gaussian_mixture import GaussianMixture
from opmerge.mixtures.lifted import LiftedMap, Trained, Training, ddim_map, identity_weights
from opmerge.mixtures.merging import MergeTrace, MixtureOutcome, MixtureProblem, merge_students
from opmerge.mixtures.planning import closest_plans, every_outcome

__all__ = [
    "GaussianMixture",
    "LiftedMap",
    "MergeTrace",
    "MixtureOutcome",
    "MixtureProblem",
    "Nodes",
    "Trained",
    "Training",
    "closest_plans",
    "ddim_map",
    "every_outcome",
    "identity_weights",
    "merge_students",
    "quadrature_nodes",
    "sampled_nodes",
    "weighted_distance",
    "weighted_w2",
]
