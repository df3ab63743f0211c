"""Codes that stand for numbers of a table, times a scale for each group of inputs: FP8, and the 4-bit floats.

Their numbers are no multiples of one step, so no integer form holds them. E4M3, NF4 and FP4 keep their codes, with
scales of float32 (F8 and F4 of kernels/weight.py). What has groups that these have not, and E5M2, is kept as bfloat16,
rounded once by the scale.

A row is bytes of its own: the float32 scales of its groups, then a byte for each code. The names tell table and group:
"E4M3/128".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Bytes
from octavo.kernels.weight import Array, Layout, Weight, fits

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
E2M1_SIZES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)  # that of the Open Compute Project, MX
TABLES = {
    "E4M3": _floats8(4, 3),
    "E5M2": _floats8(5, 2),
    "NF4": np.array([*NF4_BELOW, *NF4_ABOVE], np.float32),
    "FP4": np.concatenate([FP4_SIZES, -FP4_SIZES]),
    "E2M1": np.concatenate([E2M1_SIZES, -E2M1_SIZES]),
}
FORMS = {"E4M3": Layout.F8, "NF4": Layout.F4, "FP4": Layout.F4, "E2M1": Layout.F4}


def coded_rows(scale: npt.NDArray[np.float32], codes: npt.NDArray[np.uint8]) -> Bytes:
    """scale  # float32 [rows, groups]; codes  # uint8 [rows, cols] -> uint8 [rows, bytes of a row]"""
    return np.concatenate([np.ascontiguousarray(scale.astype(SINGLE)).view(np.uint8), codes], axis=1)


def coded_form(name: str) -> Layout | None:
    """Which form keeps the codes of rows in the form of this name; None: none does."""
    table, _, group = name.partition("/")
    form = FORMS.get(table)
    return form if form and fits(form, int(group)) else None


def coded_weight(raw: Array, table: str, group: int) -> Weight:
    """Rows in the form `table`/`group` with their codes kept. Raises ValueError for NaN or infinity."""
    scale, codes = _parts(raw, group)
    with np.errstate(over="ignore", invalid="ignore"):
        largest = scale * np.abs(TABLES[table][codes]).max(initial=0) * np.float32(256)
    if not np.isfinite(largest).all():
        raise ValueError("holds NaN or infinity")
    if FORMS[table] is Layout.F8:
        return Weight.float8(codes, scale)
    return Weight.float4(codes, scale, TABLES[table])


def coded_values(raw: Array, table: str, group: int) -> npt.NDArray[np.float32]:
    """The numbers of rows in the form `table`/`group`. float32 [rows, cols]. Raises ValueError for NaN or infinity."""
    scale, codes = _parts(raw, group)
    with np.errstate(over="ignore", invalid="ignore"):
        values = TABLES[table][codes] * np.repeat(scale, group, axis=1)
    if not np.isfinite(values).all():
        raise ValueError("holds NaN or infinity")
    return np.asarray(values, np.float32)


def _parts(raw: Array, group: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Scales and codes of rows. [rows, groups], [rows, cols]"""
    groups = raw.shape[1] // (group + 4)
    scale = np.ascontiguousarray(raw[:, : 4 * groups]).view(SINGLE)
    return np.asarray(scale, np.float32), np.asarray(raw[:, 4 * groups :], np.uint8)
