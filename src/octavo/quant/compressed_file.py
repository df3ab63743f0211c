"""Codes as compressed-tensors stores them (pack-quantized), and the settings that declare them. See compressed.py.

weight_packed      I32 [rows, words], lowest bits first     weight_scale   [rows, groups]
weight_zero_point  I32 [words, groups], along the outputs   weight_shape   I64 [2], rows and cols
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo.quant.plain import stored_bytes
from octavo.quant.search import Coded, Codes, Grid

Stored = tuple[str, tuple[int, ...], npt.NDArray[np.uint8]]  # type, shape, bytes
Declared = tuple[str, tuple[int, ...]]  # type, shape


def packed_words(codes: Codes, bits: int) -> npt.NDArray[np.uint32]:
    """Codes side by side in words, the last maybe not full. codes  # uint8 [rows, n] -> uint32 [rows, words]"""
    each = 32 // bits
    filled = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each))).reshape(codes.shape[0], -1, each)
    words = np.zeros(filled.shape[:2], np.uint32)
    for place in range(each):
        words |= filled[:, :, place].astype(np.uint32) << np.uint32(place * bits)
    return words


def coded_tensors(name: str, coded: Coded, scale_type: str) -> dict[str, Stored]:
    """The tensors that stand for the matrix `name`, "....weight". scale_type: F16, BF16 or F32."""
    declared, grid = coded_shapes(name, coded.codes.shape, coded.grid, scale_type), coded.grid
    parts = [packed_words(coded.codes, grid.bits), coded.scale, np.array(coded.codes.shape, "<i8")]
    parts += [] if grid.symmetric else [packed_words(np.ascontiguousarray(coded.zero.T), grid.bits).T]
    raw = [
        stored_bytes(part, scale_type)
        if part.dtype == np.float32
        else np.ascontiguousarray(part.astype(part.dtype.newbyteorder("<"))).view(np.uint8).reshape(-1)
        for part in parts
    ]
    return {part: (*shape, data) for (part, shape), data in zip(declared.items(), raw, strict=True)}


def coded_shapes(name: str, shape: Sequence[int], grid: Grid, scale_type: str) -> dict[str, Declared]:
    """Type and shape of what `coded_tensors` gives, by name."""
    rows, cols = shape
    each, groups = 32 // grid.bits, cols // grid.group
    out: dict[str, Declared] = {
        f"{name}_packed": ("I32", (rows, -(-cols // each))),
        f"{name}_scale": (scale_type, (rows, groups)),
        f"{name}_shape": ("I64", (2,)),
    }
    return out if grid.symmetric else out | {f"{name}_zero_point": ("I32", (-(-rows // each), groups))}


def settings(grids: Mapping[str, Grid | None], ignored: Sequence[str]) -> dict[str, Any]:
    """The quantization_config of a folder. grids: by matrix, "....weight"; None: kept plain. ignored: other modules."""
    kinds = dict.fromkeys(grid for grid in grids.values() if grid is not None)
    plain = [name.removesuffix(".weight") for name, grid in grids.items() if grid is None]
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": {
                "targets": ["Linear"] if len(kinds) == 1 else _targets(grids, kind),
                "weights": _weights(kind),
                "input_activations": None,
                "output_activations": None,
            }
            for number, kind in enumerate(kinds)
        },
        "ignore": [*ignored, *plain],
        "kv_cache_scheme": None,
    }


def _weights(grid: Grid) -> dict[str, Any]:
    return {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.symmetric,
        "strategy": "group",
        "group_size": grid.group,
        "dynamic": False,
    }


def _targets(grids: Mapping[str, Grid | None], kind: Grid) -> list[str]:
    """Patterns of the modules of one kind: by their last name where that tells kinds apart, else each one."""
    modules = [name.removesuffix(".weight") for name, grid in grids.items() if grid == kind]
    others = {name.split(".")[-2] for name, grid in grids.items() if grid not in (kind, None)}
    lasts = dict.fromkeys(module.split(".")[-1] for module in modules)
    if not others & set(lasts):
        return [rf"re:.*\.{re.escape(last)}$" for last in lasts]
    return modules
