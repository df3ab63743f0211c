"""Larger weights for inputs that are large: AWQ's search for scales of channels (Lin et al., arXiv 2306.00978).

The norm before a matrix divides what the matrix's columns are multiplied by, so the model stays the same, while its
large inputs meet finer steps. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from octavo.quant.compensate import Square, loss
from octavo.quant.search import Floats, Grid, coded

EXPONENTS = tuple(step / 10 for step in range(11))
ROWS = 1024  # most rows of a matrix that the search looks at


def channel_scales(matrices: Sequence[tuple[Floats, Grid]], hessian: Square) -> Floats | None:
    """What the columns of all these matrices are best multiplied by; None: nothing does better than 1. [cols]

    matrices: float32 [rows, cols] each with its grid, that read one input. hessian: X^T X of calibration inputs X.
    """
    size = np.sqrt(np.diagonal(hessian))
    if not size.any():
        return None
    size = np.maximum(size, size.max() * np.float32(1e-4))
    parts = [(values[:: -(-len(values) // ROWS)], grid) for values, grid in matrices]
    best, found = np.inf, None
    for exponent in EXPONENTS:
        scales = size ** np.float32(exponent)
        scales = scales / np.float32(np.sqrt(scales.max() * scales.min()))
        lost = sum(loss(coded(part * scales, grid).values() / scales - part, hessian) for part, grid in parts)
        if lost < best:
            best, found = lost, scales if exponent else None
    return found
