"""ggml's quantized blocks for tests, value by value, from the layout of their structs: independent of octavo.quant.

`decode` gives the numbers that bytes stand for, `noise` any bytes with scales of ordinary size, and `encode` quantizes
plainly: the largest value of a group gets the largest code.
"""

from __future__ import annotations

import struct

import numpy as np

SIZES = {  # values in a block, bytes of a block, where its float16 numbers are
    "Q4_0": (32, 18, (0,)),
    "Q4_1": (32, 20, (0, 2)),
    "Q5_0": (32, 22, (0,)),
    "Q5_1": (32, 24, (0, 2)),
    "Q8_0": (32, 34, (0,)),
    "Q2_K": (256, 84, (80, 82)),
    "Q3_K": (256, 110, (108,)),
    "Q4_K": (256, 144, (0, 2)),
    "Q5_K": (256, 176, (0, 2)),
    "Q6_K": (256, 210, (208,)),
    "IQ4_NL": (32, 18, (0,)),
    "IQ4_XS": (256, 136, (0,)),
    "MXFP4": (32, 17, ()),
}
EXACT = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4")  # one scale a block, no product with another
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FP4 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)


def half(block: bytes, at: int) -> float:
    return struct.unpack_from("<e", block, at)[0]


def nibble(codes: bytes, i: int, run: int) -> int:
    """Code i where `run` bytes hold 2 * run values, the first half of them in the low bits."""
    byte = codes[i // (2 * run) * run + i % run]
    return byte >> 4 if i % (2 * run) >= run else byte & 15


def six(scales: bytes, j: int) -> tuple[int, int]:
    """Scale and minimum of group j of Q4_K and Q5_K."""
    if j < 4:
        return scales[j] & 63, scales[j + 4] & 63
    return scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4


def value(kind: str, b: bytes, i: int) -> tuple[float, float]:
    """What is multiplied out, and what is added to it, for value i of a block."""
    bit = (int.from_bytes(b[SIZES[kind][1] - 20 : SIZES[kind][1] - 16], "little") >> i & 1) << 4 if i < 32 else 0
    run, part = i // 128 * 32 + i % 32, i % 128 // 32  # of 2 bits: byte, and place in it
    match kind:
        case "Q8_0":
            return half(b, 0) * struct.unpack_from("b", b, 2 + i)[0], 0
        case "Q4_0":
            return half(b, 0) * (nibble(b[2:], i, 16) - 8), 0
        case "Q4_1":
            return half(b, 0) * nibble(b[4:], i, 16), half(b, 2)
        case "Q5_0":
            return half(b, 0) * ((nibble(b[6:], i, 16) | bit) - 16), 0
        case "Q5_1":
            return half(b, 0) * (nibble(b[8:], i, 16) | bit), half(b, 2)
        case "Q2_K":
            scale = b[i // 16]
            return half(b, 80) * (scale & 15) * (b[16 + run] >> 2 * part & 3), -half(b, 82) * (scale >> 4)
        case "Q3_K":
            j = i // 16
            scale = (b[96 + j % 8] >> 4 * (j // 8) & 15 | (b[104 + j % 4] >> 2 * (j // 4) & 3) << 4) - 32
            code = (b[32 + run] >> 2 * part & 3) - (0 if b[i % 32] >> i // 32 & 1 else 4)
            return half(b, 108) * scale * code, 0
        case "Q4_K":
            scale, least = six(b[4:16], i // 32)
            return half(b, 0) * scale * nibble(b[16:], i, 32), -half(b, 2) * least
        case "Q5_K":
            scale, least = six(b[4:16], i // 32)
            code = nibble(b[48:], i, 32) | (b[16 + i % 32] >> i // 32 & 1) << 4
            return half(b, 0) * scale * code, -half(b, 2) * least
        case "Q6_K":
            code = nibble(b, i, 64) | (b[128 + run] >> 2 * part & 3) << 4
            return half(b, 208) * struct.unpack_from("b", b, 192 + i // 16)[0] * (code - 32), 0
        case "IQ4_NL":
            return half(b, 0) * IQ4[nibble(b[2:], i, 16)], 0
        case "IQ4_XS":
            j = i // 32
            scale = (b[4 + j // 2] >> 4 * (j % 2) & 15 | (b[2 + j // 4] >> 2 * (j % 4) & 3) << 4) - 32
            return half(b, 0) * scale * IQ4[nibble(b[8:], i, 16)], 0
        case _:
            code = nibble(b[1:], i, 16)
            return 2.0 ** (b[0] - 127) * FP4[code % 8] * (-1 if code >= 8 else 1), 0


def terms(kind: str, raw: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Products and minima of all values, exactly. float64"""
    values, size, _ = SIZES[kind]
    blocks = [bytes(raw[at : at + size]) for at in range(0, len(raw), size)]
    both = np.array([value(kind, block, i) for block in blocks for i in range(values)])
    return both[:, 0].reshape(shape), both[:, 1].reshape(shape)


def decode(kind: str, raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 values the bytes stand for."""
    product, least = terms(kind, raw, shape)
    return (product + least).astype(np.float32)


def once_rounded(kind: str, raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """How far from `decode` a value may be whose scale and minimum were each rounded to float16."""
    if kind in EXACT:
        return np.zeros(shape)
    product, least = terms(kind, raw, shape)
    size, tiny = np.abs(product) + np.abs(least), 2.0**-25  # half of the smallest float16, times the largest code
    return size * (2.0**-11 + 2.0**-23) + 128 * tiny


def noise(kind: str, rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Any codes at all. uint8 [rows, bytes]"""
    rng = np.random.default_rng(seed)
    values, size, places = SIZES[kind]
    blocks = rng.integers(0, 256, (rows, cols // values, size), np.uint8)
    for at in places:
        blocks[:, :, at : at + 2] = rng.standard_normal((rows, cols // values, 1)).astype(np.float16).view(np.uint8)
    if kind == "MXFP4":
        blocks[:, :, 0] = rng.integers(104, 140, blocks.shape[:2])
    return blocks.reshape(rows, -1)


def encode(kind: str, values: np.ndarray) -> bytes:
    """Q4_K or Q6_K blocks of float32 values; the last dimension is a multiple of 256."""
    blocks = np.asarray(values, np.float64).reshape(-1, 256)
    return b"".join((_q4_k if kind == "Q4_K" else _q6_k)(block) for block in blocks)


def _q4_k(block: np.ndarray) -> bytes:
    groups = block.reshape(8, 32)
    least = np.maximum(0, -groups.min(axis=1))
    steps = (groups.max(axis=1) + least) / 15
    d, dmin = (max(float(np.float16(part.max() / 63)), 1e-7) for part in (steps, least))
    scale, low = (np.clip(np.rint(part / by), 0, 63).astype(int) for part, by in ((steps, d), (least, dmin)))
    shifted = groups + (dmin * low)[:, None]
    codes = np.clip(np.rint(shifted / np.maximum(d * scale, 1e-9)[:, None]), 0, 15).astype(np.uint8)
    six = [int(scale[j]) | int(scale[j + 4]) >> 4 << 6 for j in range(4)]
    six += [int(low[j]) | int(low[j + 4]) >> 4 << 6 for j in range(4)]
    six += [int(scale[j]) & 15 | (int(low[j]) & 15) << 4 for j in range(4, 8)]
    return struct.pack("<ee", d, dmin) + bytes(six) + (codes[::2] | codes[1::2] << 4).tobytes()


def _q6_k(block: np.ndarray) -> bytes:
    groups = block.reshape(16, 16)
    steps = np.abs(groups).max(axis=1) / 31
    d = max(float(np.float16(steps.max() / 127)), 1e-7)
    scale = np.clip(np.rint(steps / d), 0, 127).astype(np.int8)
    codes = np.clip(np.rint(groups / np.maximum(d * scale, 1e-9)[:, None]) + 32, 0, 63).astype(np.uint8)
    planes = codes.reshape(2, 4, 32)  # [half, quarter, value]
    low = [(planes[h, q] & 15 | (planes[h, q + 2] & 15) << 4).tobytes() for h in (0, 1) for q in (0, 1)]
    high = [np.bitwise_or.reduce([planes[h, q] >> 4 << 2 * q for q in range(4)]).tobytes() for h in (0, 1)]
    return b"".join(low + high) + scale.tobytes() + struct.pack("<e", d)
