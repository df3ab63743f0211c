"""Codes that stand for numbers of a table, times a scale for each group of inputs: FP8, and the 4-bit floats.

Their numbers are no multiples of one step, so no integer form holds them; they are kept as bfloat16, which holds those
of FP8 exactly, and rounds once by the scale. A row is bytes of its own: the float32 scales of its groups (the last may
be smaller), then a byte for each code. The names tell table and group: "E4M3/128".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Bytes
from octavo.kernels.weight import Array

SINGLE = np.dtype("<f4")


def _floats8(exponent: int, mantissa: int) -> npt.NDArray[np.float32]:
    """All codes of an 8-bit float (Open Compute Project, OFP8), with NaN and infinity both as NaN. float32 [256]"""
    codes = np.arange(256)
    power, part = codes >> mantissa & (1 << exponent) - 1, codes & (1 << mantissa) - 1
    bias, steps = (1 << exponent - 1) - 1, 1 << mantissa
    size = np.where(power == 0, np.ldexp(part / steps, 1 - bias), np.ldexp(1 + part / steps, power - bias))
    # E4M3 has no infinity, and NaN only where all bits are set; E5M2 is as float16.
    wrong = (codes & 127) == 127 if exponent == 4 else power == (1 << exponent) - 1
    return np.where(wrong, np.nan, np.where(codes & 128, -size, size)).astype(np.float32)


# The quantiles of a normal distribution: QLoRA, arXiv 2305.14314, appendix E.
NF4_BELOW = [-1.0, -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.091050036, 0.0]
NF4_ABOVE = [0.079580300, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0]
# bitsandbytes' own 4-bit float: sign, two bits of exponent, one of mantissa, the largest being 1.
FP4_SIZES = np.array([0.0, 0.0052083333, 0.6666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25], np.float32)
TABLES = {
    "E4M3": _floats8(4, 3),
    "E5M2": _floats8(5, 2),
    "NF4": np.array([*NF4_BELOW, *NF4_ABOVE], np.float32),
    "FP4": np.concatenate([FP4_SIZES, -FP4_SIZES]),
}


def coded_rows(scale: npt.NDArray[np.float32], codes: npt.NDArray[np.uint8]) -> Bytes:
    """scale  # float32 [rows, groups]; codes  # uint8 [rows, cols] -> uint8 [rows, bytes of a row]"""
    return np.concatenate([np.ascontiguousarray(scale.astype(SINGLE)).view(np.uint8), codes], axis=1)


def coded_values(raw: Array, table: str, group: int) -> npt.NDArray[np.float32]:
    """The numbers of rows in the form `table`/`group`. float32 [rows, cols]. Raises ValueError for NaN or infinity."""
    groups = -(-raw.shape[1] // (group + 4))
    scale = np.ascontiguousarray(raw[:, : 4 * groups]).view(SINGLE)
    values = TABLES[table][raw[:, 4 * groups :]]
    with np.errstate(over="ignore", invalid="ignore"):
        values *= np.repeat(scale, group, axis=1)[:, : values.shape[1]]
    if not np.isfinite(values).all():
        raise ValueError("holds NaN or infinity")
    return np.asarray(values, np.float32)
