"""Codes that make up for each other's errors: GPTQ (Frantar et al., arXiv 2210.17323), columns in their own order.

What a matrix loses is measured on what it reads: with H = X^T X of calibration inputs X, an error E of the matrix costs
trace(E H E^T). Columns are rounded one after another, and those still to come take up what one lost. Knows no model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.quant.search import Coded, Floats, Grid, decode, encode, fitted

Square = npt.NDArray[np.float32]  # [inputs, inputs]
ATTEMPTS = 6  # at damping, tenfold each time


def loss(error: Floats, hessian: Square) -> float:
    """The squared error at the outputs. error  # [rows, cols]"""
    return float(np.einsum("ij,ij->", error @ hessian, error, dtype=np.float64))


def compensated(values: Floats, hessian: Square, grid: Grid, damping: float) -> Coded:
    """The codes of a matrix. values  # float32 [rows, cols]; damping: share of the mean of H's diagonal added to it.

    Raises ValueError as `coded` does.
    """
    factor, importance = _factor(hessian, damping), np.diagonal(hessian).copy()
    rest = np.ascontiguousarray(values.T)  # [cols, rows]: a column is contiguous
    cols, rows = rest.shape
    codes = np.empty((cols, rows), np.uint8)
    scale, zero = np.empty((cols // grid.group, rows), np.float32), np.empty((cols // grid.group, rows), np.uint8)
    for index, first in enumerate(range(0, cols, grid.group)):
        last = first + grid.group
        weight = importance[first:last] if importance[first:last].any() else None
        scale[index], zero[index] = fitted(np.ascontiguousarray(rest[first:last].T), grid, weight)
        errors = np.empty((grid.group, rows), np.float32)
        for at in range(first, last):
            codes[at] = encode(rest[at], scale[index], zero[index], grid)
            error = (rest[at] - decode(codes[at], scale[index], zero[index])) / factor[at, at]
            rest[at + 1 : last] -= factor[at, at + 1 : last, None] * error
            errors[at - first] = error
        rest[last:] -= factor[first:last, last:].T @ errors
    return Coded(grid, np.ascontiguousarray(codes.T), np.ascontiguousarray(scale.T), np.ascontiguousarray(zero.T))


def _factor(hessian: Square, damping: float) -> Square:
    """U, upper, with U^T U = (H + damping)^-1. With H = R R^T, R upper, it is R^-1."""
    size = len(hessian)
    if not np.isfinite(hessian).all():
        raise ValueError("reads inputs of the calibration text that are no numbers or too large")
    mean = float(np.trace(hessian, dtype=np.float64)) / size
    for attempt in range(ATTEMPTS):
        damped = hessian.copy()
        damped[np.diag_indices(size)] += np.float32((damping * mean or 1.0) * 10**attempt)
        try:
            lower = np.linalg.cholesky(damped[::-1, ::-1])
        except np.linalg.LinAlgError:
            continue
        return np.asarray(np.triu(np.linalg.inv(lower[::-1, ::-1])), np.float32)
    raise ValueError("reads inputs of the calibration text that depend on each other too much for this damping")
