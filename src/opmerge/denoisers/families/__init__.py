"""Families of networks: what a config names, what samples it is for, how the network is called.

A family is one subclass of ``Family``, in a file of this folder or of one's own. A teacher's folder
is read, and its network called in training and in sampling, by what that class says.
"""

from importlib import import_module
from pkgutil import iter_modules

from opmerge.denoisers.families.family import (
    FAMILIES,
    Call,
    Config,
    Family,
    Rows,
    class_rows,
    config_of,
    family_of,
    model_class,
    shape_of,
    unwrapped,
)

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)  # each registers its family

__all__ = [
    "FAMILIES",
    "Call",
    "Config",
    "Family",
    "Rows",
    "class_rows",
    "config_of",
    "family_of",
    "model_class",
    "shape_of",
    "unwrapped",
]
