"""Where saved teachers and students of version 0.1 look for their networks."""

from opmerge.denoisers.networks import MLPDenoiser

__all__ = ["MLPDenoiser"]
