"""Plain matrices as integer codes at load: which stored type becomes which packed form when --quantize asks for it.

int8: groups of up to 128 inputs, rounded to the nearest. int4: groups of up to 64, the scale of each searched
(search.py). Knows no model: who asks says which matrix keeps how many bits.
"""

from __future__ import annotations

import numpy as np

from octavo.kernels.weight import Array, Layout, Weight
from octavo.quant.format import Format
from octavo.quant.plain import float32_values
from octavo.quant.search import Grid, coded, span_of


def online_format(stored: str, cols: int, bits: int, span: int) -> Format | None:
    """The packed form of a plain matrix in codes of 4 or 8 bits; None where no group up to `span` divides its inputs.

    `stored` is its plain type.
    """
    group = span_of(cols, span)
    if not group:
        return None
    grid = Grid(bits, group, search=bits == 4)
    layout = Layout.W4 if bits == 4 else Layout.W8
    return Format(layout, group, lambda raw: _packed(raw, stored, grid))


def _packed(raw: Array, stored: str, grid: Grid) -> Weight:
    """Rows of stored bytes as a Weight. raw  # uint8 [rows, bytes of a row]. Raises ValueError for NaN or infinity."""
    found = coded(float32_values(raw, stored), grid)
    scale = found.scale.astype(np.float16)
    if grid.bits == 4:
        return Weight.int4(found.codes, scale)
    return Weight.int8((found.codes ^ np.uint8(128)).view(np.int8), scale)
