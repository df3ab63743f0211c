"""4-bit floats (E2M1) in pairs of a byte, the first in its low half: NVFP4 and MXFP4.

    compressed-tensors, nvfp4  weight_packed  U8 [rows, cols / 2]    weight_scale    F8_E4M3 [rows, cols / 16]
                               weight_global_scale  F32 [1]          value = float * (scale / global scale)
    compressed-tensors, mxfp4  weight_packed  U8 [rows, cols / 2]    weight_scale    U8 [rows, cols / 32]
                                                                     value = float * 2^(scale - 127)
    modelopt, nvfp4            weight         U8 [rows, cols / 2]    weight_scale    F8_E4M3 [rows, cols / 16]
                               weight_scale_2  F32 []                value = float * (scale * scale 2)

MXFP4 becomes the blocks that GGUF files have, NVFP4 codes of a table (coded.py) in groups of 16.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Bytes, Derived
from octavo.quant import mxfp4
from octavo.quant.bits import nibbles
from octavo.quant.coded import TABLES, coded_rows
from octavo.quant.module import Module, Stored, floats, raw_bytes

SCALE, GLOBAL, SECOND = ".weight_scale", ".weight_global_scale", ".weight_scale_2"
GROUP = 16  # inputs that share a scale of NVFP4


def weight(module: Module, mark: str) -> Derived:
    """The weight of a module whose codes are its part `mark`. Raises ModelError for parts that do not fit."""
    packed = module.part(mark, ("U8",), -1, -1)
    rows, cols = packed.shape[0], packed.shape[1] * 2
    name = f"{module.name}.weight"
    if not module.has(GLOBAL) and not module.has(SECOND):
        exponents = module.part(SCALE, ("U8",), rows, cols // mxfp4.BLOCK)
        _check(module, mark, cols, mxfp4.BLOCK)

        def blocks() -> Bytes:
            return mxfp4.blocks_of(_codes(packed), raw_bytes(exponents))

        return Derived(name, "MXFP4", (rows, cols), module.parts, blocks)
    scale = module.part(SCALE, ("F8_E4M3",), rows, cols // GROUP)
    _check(module, mark, cols, 2 * GROUP)
    whole = next(part for part in (GLOBAL, SECOND) if module.has(part))
    module.part(whole, ("F32",), *module.stored[whole].shape)
    if module.stored[whole].nbytes != 4:
        raise module.wrong(whole, "expected one number")

    def coded() -> Bytes:
        number = floats(module.stored[whole]).reshape(1, 1)
        with np.errstate(all="ignore"):  # what is not finite is refused when it is packed
            fine = TABLES["E4M3"][raw_bytes(scale)]
            factor = np.asarray(fine / number if whole == GLOBAL else fine * number, np.float32)
        return coded_rows(factor, _codes(packed))

    return Derived(name, f"E2M1/{GROUP}", (rows, cols), module.parts, coded)


def _check(module: Module, mark: str, cols: int, of: int) -> None:
    if cols % of:
        raise module.wrong(mark, f"expected a multiple of {of} inputs")


def _codes(packed: Stored) -> npt.NDArray[np.uint8]:
    return nibbles(raw_bytes(packed), high_first=False)
