"""Where students of version 0.1 look for their networks: ``model_index.json`` names this module.

Diffusers looks here for ``ModelMixin`` too, by which it knows how to load a class.
"""

from diffusers.models.modeling_utils import ModelMixin

from opmerge.denoisers.networks import MLPDenoiser

__all__ = ["MLPDenoiser", "ModelMixin"]
