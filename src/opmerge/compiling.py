"""numba, as the kernels need it: whatever the environment says, and wherever there is room."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from opmerge.errors import InputError

__all__ = ["kernel", "numba", "prange"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _settle_threads() -> None:
    """Leave a number of threads in the environment that numba and OpenMP can start.

    numba reads NUMBA_NUM_THREADS when it is imported and dies of one that is no number, 0 or more
    than the system starts. It also sets the number of threads of the OpenMP that torch uses,
    without asking how many there should be: where OMP_NUM_THREADS says so, they are as many.
    """
    most = os.cpu_count() or 1
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        asked = os.environ.get(name, "").split(",")[0].strip()  # OpenMP's may be one a level
        if asked.isdecimal() and int(asked) > 0:
            os.environ["NUMBA_NUM_THREADS"] = str(min(int(asked), most))
            return
    os.environ.pop("NUMBA_NUM_THREADS", None)


if "numba" not in sys.modules:  # or else it has read them, and says so if they change
    _settle_threads()
try:
    with warnings.catch_warnings(action="ignore"):  # of variables that it reads as unset
        import numba
        from numba.core.caching import FunctionCache
except Exception as error:
    remedy = "unset the variables NUMBA_…, and leave out .numba_config.yaml in this folder"
    raise InputError("numba", f"cannot be imported ({error})", remedy=remedy) from error
_config: Any = numba.config
if _config.THREADING_LAYER != "workqueue":  # the others may not be there: the best that is
    _config.THREADING_LAYER = "default"
_config.THREADING_LAYER_PRIORITY = ["tbb", "omp", "workqueue"]
if _config.CPU_NAME != "generic":  # LLVM ends the process for a name that it does not know
    _config.CPU_NAME = None
prange = numba.prange


class _Cache(FunctionCache):
    """numba's, of which a damaged file or a full disk costs a compilation and nothing else."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            with suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):
            super().save_overload(sig, data)


def kernel(**options: Any) -> Callable[[_Function], _Function]:
    """``numba.njit`` with a cache, or without one where no place for it can be written to.

    Other threads run meanwhile, such as that of a server; not beside one that runs in parallel,
    of which numba's own layer of threads allows one at a time.
    """
    options.setdefault("nogil", not options.get("parallel"))

    def compiled(function: _Function) -> _Function:
        made: Any = numba.njit(**options)(function)
        with suppress(RuntimeError, OSError):  # an install and a home that are not ours to write
            made._cache = _Cache(function)
        return made

    return compiled
