"""Makes tests/data/gguf: a file for each quantized type, and one model in three parts, all written by the gguf package.

    python make_gguf_fixtures.py OUT [LIBRARY]

Each type's file holds `w`, random values as ggml quantizes them, and `w.values`, the float32 values that the gguf
package says they stand for. LIBRARY is llama.cpp's libggml-base.so, whose quantizer makes all types; without it the
gguf package makes those that it can, which are the same bytes.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4")
OF_PACKAGE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")  # that it can quantize to
ROWS, COLS = 3, 512


def values() -> np.ndarray:
    """Rows of different size, and one run of zeros."""
    rng = np.random.default_rng(20)
    out = rng.normal(0, 1, (ROWS, COLS)) * np.array([[0.02], [1], [30]])
    out[1, 64:128] = 0
    return out.astype(np.float32)


def by_library(path: str, kind: str, source: np.ndarray) -> np.ndarray:
    """ggml's own quantizer."""
    quantize = ctypes.CDLL(path).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    block, size = gguf.GGML_QUANT_SIZES[Type[kind]]
    out = np.zeros((ROWS, COLS // block * size), np.uint8)
    assert quantize(Type[kind], source.ctypes.data, out.ctypes.data, 0, ROWS, COLS, None) == out.nbytes
    return out


def write_type(folder: Path, kind: str, stored: np.ndarray) -> None:
    writer = gguf.GGUFWriter(folder / f"{kind}.gguf", "none")
    writer.add_tensor("w", stored, raw_dtype=Type[kind])
    writer.add_tensor("w.values", gguf.dequantize(stored, Type[kind]))
    finish(writer)


def write_parts(folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / "parts.gguf", "none", split_max_tensors=2)
    for i in range(5):
        writer.add_tensor(f"t{i}", np.full((2, 3 + i), i, np.float32))
    finish(writer)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    source = values()
    library = sys.argv[2] if len(sys.argv) > 2 else ""
    for kind in TYPES if library else OF_PACKAGE:
        stored = by_library(library, kind, source) if library else gguf.quantize(source, Type[kind])
        write_type(folder, kind, stored)
    write_parts(folder)


if __name__ == "__main__":
    main()
