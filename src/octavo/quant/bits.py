"""Codes of a few bits, packed side by side into 32-bit words, lowest bits first: unpacked to one a byte.

GPTQ writes one run of bits, so a code of 3 bits may lie across two words; compressed-tensors leaves the rest of a word
empty. Where 32 is a multiple of the bits, the two are the same.
"""

from __future__ import annotations

from math import gcd

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Codes = npt.NDArray[np.uint8]


def run_of_bits(words: Words, bits: int) -> Codes:
    """Codes in one run of bits. words  # uint32 [rows, n] -> uint8 [rows, n * 32 / bits]

    n is a multiple of `words_in_run(bits)`.
    """
    run = words_in_run(bits)
    runs = words.reshape(words.shape[0], -1, run)
    out = np.empty((*runs.shape[:2], run * 32 // bits), np.uint8)
    for i in range(out.shape[2]):
        at, shift = divmod(i * bits, 32)
        code = runs[:, :, at] >> np.uint32(shift)
        if shift + bits > 32:
            code |= runs[:, :, at + 1] << np.uint32(32 - shift)
        out[:, :, i] = code & np.uint32((1 << bits) - 1)
    return out.reshape(words.shape[0], -1)


def words_in_run(bits: int) -> int:
    """Words after which codes begin at the beginning of a word again."""
    return bits // gcd(bits, 32)


def word_by_word(words: Words, bits: int) -> Codes:
    """Codes that never cross words. words  # uint32 [rows, n] -> uint8 [rows, n * (32 // bits)]"""
    out = np.empty((*words.shape, 32 // bits), np.uint8)
    for i in range(32 // bits):
        out[:, :, i] = (words >> np.uint32(i * bits)) & np.uint32((1 << bits) - 1)
    return out.reshape(words.shape[0], -1)


def nibbles(packed: Codes, *, high_first: bool) -> Codes:
    """Two codes of 4 bits a byte. packed  # uint8 [rows, n] -> uint8 [rows, 2 n]"""
    out = np.empty((*packed.shape, 2), np.uint8)
    out[:, :, int(high_first)] = packed & 15
    out[:, :, int(not high_first)] = packed >> 4
    return out.reshape(packed.shape[0], -1)
