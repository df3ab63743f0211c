"""Plain matrices as integer codes at load: which stored type becomes which packed form when --quantize asks for it.

int8: groups of up to 128 inputs, rounded to the nearest. int4: groups of up to 64, the scale of each searched
(search.py). int16: groups of up to 128, rounded to the nearest of 8191 codes. Knows no model: who asks says which
matrix keeps how many bits.
"""

from __future__ import annotations

import numpy as np

from octavo.kernels.weight import WORD, Array, Layout, Weight
from octavo.quant.format import Format
from octavo.quant.plain import float32_values
from octavo.quant.search import Grid, coded, span_of

LEAST = 1e-30  # groups of smaller numbers are zero


def online_format(stored: str, cols: int, bits: int, span: int) -> Format | None:
    """The packed form of a plain matrix in codes of 4, 8 or 16 bits; `stored` is its plain type.

    None where no group up to `span` divides its inputs.
    """
    group = span_of(cols, span)
    if not group:
        return None
    if bits == 16:
        return Format(Layout.W16, group, lambda raw: _words(raw, stored, group))
    grid = Grid(bits, group, search=bits == 4)
    layout = Layout.W4 if bits == 4 else Layout.W8
    return Format(layout, group, lambda raw: _packed(raw, stored, grid))


def _words(raw: Array, stored: str, group: int) -> Weight:
    """As `_packed`, in codes of 16 bits."""
    values = float32_values(raw, stored)
    groups = values.reshape(len(values), -1, group)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(WORD), largest, out=np.zeros_like(largest), where=largest > LEAST)
    codes = np.rint(groups * inverse).astype(np.int16).reshape(values.shape)
    return Weight.int16(codes, largest[:, :, 0] / np.float32(WORD))


def _packed(raw: Array, stored: str, grid: Grid) -> Weight:
    """Rows of stored bytes as a Weight. raw  # uint8 [rows, bytes of a row]. Raises ValueError for NaN or infinity."""
    found = coded(float32_values(raw, stored), grid)
    scale = found.scale.astype(np.float16)
    if grid.bits == 4:
        return Weight.int4(found.codes, scale)
    return Weight.int8((found.codes ^ np.uint8(128)).view(np.int8), scale)
