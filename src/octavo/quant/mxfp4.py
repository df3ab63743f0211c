"""MXFP4 as gpt-oss stores its experts (Open Compute Project, MX): blocks of 32 4-bit floats with a power of two.

    {name}_blocks  U8 [..., rows, cols / 32, 16]    value 2j of a block in the low half of byte j, 2j + 1 in the high
    {name}_scales  U8 [..., rows, cols / 32]        exponent + 127

They become the blocks that GGUF files have, in which byte j holds values j and j + 16: the tensor `name` of shape
[..., rows, cols], as the product with inputs wants it.
"""

from __future__ import annotations

import numpy as np

from octavo.checkpoint.tensor import Bytes, Derived
from octavo.quant.bits import nibbles
from octavo.quant.module import Declared, Module, raw_bytes

MARK = "_blocks"
PARTS = (MARK, "_scales")
BLOCK = 32  # numbers that share a power of two


def weight(module: Module, declared: Declared) -> Derived:
    """The tensor of a pair of blocks and scales. Raises ModelError for parts that do not fit each other."""
    sizes = module.stored[MARK].shape[:-1]
    if len(sizes) < 2:
        raise module.wrong(MARK, "expected U8 of [..., rows, blocks, 16]")
    blocks = module.part(MARK, ("U8",), *sizes, 16)
    scales = module.part("_scales", ("U8",), *sizes)

    def build() -> Bytes:
        codes = nibbles(raw_bytes(blocks).reshape(-1, 16), high_first=False)
        return blocks_of(codes.reshape(-1, sizes[-1] * BLOCK), raw_bytes(scales))

    shape = (*sizes[:-1], sizes[-1] * BLOCK)
    return Derived(module.name, "MXFP4", shape, module.parts, build)


def blocks_of(codes: Bytes, scales: Bytes) -> Bytes:
    """Blocks as GGUF files have them. codes  # uint8 [rows, cols]; scales  # uint8 of each block -> [rows, bytes]"""
    block = codes.reshape(-1, BLOCK)
    halves = block[:, : BLOCK // 2] | block[:, BLOCK // 2 :] << 4
    return np.concatenate([scales.reshape(-1, 1), halves], axis=1).reshape(len(codes), -1)
