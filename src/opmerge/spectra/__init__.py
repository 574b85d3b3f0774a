"""Spectra: the eigenvalues of a data covariance, given or estimated from samples in one pass."""

from opmerge.spectra.estimate import estimate_spectrum, resolve_spectrum
from opmerge.spectra.spectrum import Spectrum, SpectrumKind, eigenvalue_spectrum

__all__ = [
    "Spectrum",
    "SpectrumKind",
    "eigenvalue_spectrum",
    "estimate_spectrum",
    "resolve_spectrum",
]
