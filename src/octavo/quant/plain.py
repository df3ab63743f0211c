"""Unquantized tensors: float32, float16 and bfloat16, as they lie in both file formats (little-endian)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.kernels.weight import Array, from_bfloat16, to_bfloat16

PLAIN = ("F32", "F16", "BF16")


def float32_values(raw: Array, stored: str) -> npt.NDArray[np.float32]:
    """The values as float32, exactly. raw  # uint8 [rows, bytes]. Raises ValueError for NaN or infinity."""
    values = _widened(raw, stored)
    if not np.isfinite(values).all():
        raise ValueError("holds NaN or infinity")
    return values


def bfloat16_bits(raw: Array, stored: str) -> npt.NDArray[np.uint16]:
    """The nearest bfloat16 of each value. raw  # uint8 [rows, bytes]. Raises ValueError for NaN or infinity."""
    bits = np.asarray(raw.view("<u2"), np.uint16) if stored == "BF16" else to_bfloat16(_widened(raw, stored))
    if bits.size and (bits & 0x7FFF).max() >= 0x7F80:
        raise ValueError("holds NaN or infinity, or a value beyond bfloat16")
    return bits


def stored_bytes(values: npt.NDArray[np.float32], stored: str) -> npt.NDArray[np.uint8]:
    """The nearest numbers of a stored type, as its bytes. uint8"""
    if stored == "BF16":
        return np.ascontiguousarray(to_bfloat16(values).astype("<u2")).view(np.uint8).reshape(-1)
    return np.ascontiguousarray(values.astype("<f4" if stored == "F32" else "<f2")).view(np.uint8).reshape(-1)


def _widened(raw: Array, stored: str) -> npt.NDArray[np.float32]:
    """The values as float32, whatever they are."""
    if stored == "BF16":
        return from_bfloat16(raw.view("<u2"))
    return raw.view("<f4" if stored == "F32" else "<f2").astype(np.float32)
