"""The array that nearly everything is computed with."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
