"""The change of a layer's full weight that its heads amount to."""

import numpy as np
from numpy.typing import NDArray

from ravan.bases import Bases


def weight_change(bases: Bases, sH: NDArray[np.floating]) -> NDArray[np.float64]:
    """sum_i B_i (s_i H_i) A_i for one layer, [d_out, d_in] in float64; ``sH`` is [heads, rank, rank]."""
    B, A = bases.B.astype(np.float64), bases.A.astype(np.float64)
    change: NDArray[np.float64] = np.einsum("hor,hrq,hqi->oi", B, sH.astype(np.float64), A, optimize=True)
    return change
