"""Which stored type becomes which packed form: one row a format, and nothing of it survives past load.

Rows of a matrix are packed a few panels at a time, so packing takes little memory beside its result. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from octavo.kernels.weight import PANEL, Array, Layout, Weight, aligned, panel_bytes, read_as, to_bfloat16
from octavo.quant import ggml, superblock
from octavo.quant.coded import TABLES, coded_form, coded_values, coded_weight
from octavo.quant.grouped import LAYOUTS, packer
from octavo.quant.plain import PLAIN, bfloat16_bits, float32_values

STEP = 1 << 17  # values packed at a time, about: the working set stays in the cache


@dataclass(frozen=True, slots=True)
class Format:
    """A stored type in its packed form.

    `group` inputs share a scale (0: none). `pack` makes a Weight of rows of stored bytes, uint8 [rows, bytes of a row].
    """

    layout: Layout
    group: int
    pack: Callable[[Array], Weight]

    def packed_bytes(self, rows: int, cols: int) -> int:
        """Bytes of a packed matrix: `Weight.nbytes`, known before packing."""
        return -(-rows // PANEL) * panel_bytes(self.layout, cols, self.group)


QUANTIZED = {
    "Q8_0": Format(Layout.W8, 32, ggml.q8_0),
    "Q4_0": Format(Layout.W4, 32, ggml.q4_0),
    "Q4_1": Format(Layout.W4M, 32, ggml.q4_1),
    "Q5_0": Format(Layout.W8, 32, ggml.q5_0),
    "Q5_1": Format(Layout.W8M, 32, ggml.q5_1),
    "Q2_K": Format(Layout.W4M, 16, superblock.q2_k),
    "Q3_K": Format(Layout.W4, 16, superblock.q3_k),
    "Q4_K": Format(Layout.W4M, 32, superblock.q4_k),
    "Q5_K": Format(Layout.W8M, 32, superblock.q5_k),
    "Q6_K": Format(Layout.W8, 16, superblock.q6_k),
    "IQ4_NL": Format(Layout.W4L, 32, ggml.iq4_nl),
    "IQ4_XS": Format(Layout.W4L, 32, superblock.iq4_xs),
    "MXFP4": Format(Layout.W4L, 32, ggml.mxfp4),
}
SUPPORTED = (*PLAIN, *QUANTIZED)


def format_of(stored: str, dtype: str) -> Format | None:
    """How a matrix of the stored type is kept; None for a type that cannot be.

    `dtype` speaks of unquantized weights: "auto" and "bfloat16" keep them as bfloat16, "float32" as float32. With
    "float32" codes of floats that would read bfloat16 inputs become float32 numbers.
    """
    name, _, group = stored.partition("/")
    if group and name in LAYOUTS:
        return Format(LAYOUTS[name], int(group), packer(name, int(group)))
    if group and name in TABLES:
        layout = coded_form(stored)
        if layout is Layout.F4 or (layout is Layout.F8 and dtype != "float32"):
            return Format(layout, int(group), lambda raw: coded_weight(raw, name, int(group)))
        return _numbers(lambda raw: coded_values(raw, name, int(group)), dtype)
    if stored not in PLAIN:
        return QUANTIZED.get(stored)
    if dtype == "float32":
        return Format(Layout.F32, 0, lambda raw: Weight.float32(float32_values(raw, stored)))
    return Format(Layout.BF16, 0, lambda raw: Weight.bfloat16(bfloat16_bits(raw, stored)))


def _numbers(values: Callable[[Array], npt.NDArray[np.float32]], dtype: str) -> Format:
    """How numbers that no integer form holds are kept, whatever makes them of rows of bytes."""
    if dtype == "float32":
        return Format(Layout.F32, 0, lambda raw: Weight.float32(values(raw)))
    return Format(Layout.BF16, 0, lambda raw: Weight.bfloat16(to_bfloat16(values(raw))))


def widened(form: Format, layout: Layout) -> Format:
    """A form that reads inputs as F32 or BF16 does: itself, or its values as such plain numbers."""
    if read_as(form.layout, form.group) == read_as(layout, 0):
        return form
    if layout is Layout.F32:
        return Format(layout, 0, lambda raw: Weight.float32(form.pack(raw).dequantize()))
    return Format(layout, 0, lambda raw: Weight.bfloat16(to_bfloat16(form.pack(raw).dequantize())))


def regrouped(form: Format, group: int) -> Format:
    """The same codes with their scales repeated for smaller groups, which must divide the form's."""
    return Format(form.layout, group, lambda raw: form.pack(raw).regrouped(group)) if group < form.group else form


def pack(form: Format, raw: Array, cols: int) -> Weight:
    """Pack a whole matrix. raw  # uint8 [rows, bytes of a row]. Raises ValueError for NaN or infinity."""
    rows = raw.shape[0]
    step = max(PANEL, STEP // cols // PANEL * PANEL)
    data = aligned(form.packed_bytes(rows, cols))
    at = 0
    for first in range(0, rows, step):
        part = form.pack(raw[first : first + step])
        data[at : at + part.nbytes] = part.data
        at += part.nbytes
    data.flags.writeable = False
    return Weight(form.layout, rows, cols, form.group, data)


def vector(raw: Array, stored: str) -> npt.NDArray[np.float32]:
    """Norm weights and biases: the values of an unquantized tensor. float32. Raises ValueError for NaN or infinity."""
    values: npt.NDArray[np.float32] = float32_values(raw.reshape(1, -1), stored)[0]
    return values
