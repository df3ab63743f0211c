"""Tiny folders for `octavo quantize`, what it makes of them, and both as programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from octavo.checkpoint.source import open_source
from octavo.compress.quantize import Report, Texts, quantize
from octavo.core.config import QuantizeConfig
from octavo.kernels.weight import Weight
from octavo.models.load import load
from octavo.models.registry import read_spec


def texts(vocab: int, count: int = 6, length: int = 64, seed: int = 0) -> np.ndarray:
    """Random texts of a small model. int32 [count, length]"""
    return np.random.default_rng(seed).integers(3, vocab, (count, length)).astype(np.int32)


def quantized(folder: Path, out: Path, calibration=None, judged=None, **recipe) -> Report:
    """`folder` quantized to `out`."""
    with open_source(folder) as source:
        return quantize(source, out, QuantizeConfig(**recipe), Texts(calibration, judged))


def numbers(folder: Path, dtype: str = "float32") -> dict[str, np.ndarray]:
    """All weights of a folder as float32, by our names."""
    with open_source(folder) as source:
        loaded = load(source, read_spec(source), dtype=dtype)
    return {
        key: weight.dequantize() if isinstance(weight, Weight) else np.array(weight) for key, weight in loaded.items()
    }
