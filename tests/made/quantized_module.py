"""Modules of quantized checkpoints, packed for tests from the formats' public definitions, bit by bit in Python's own
integers, and independent of octavo.quant. Each function gives the tensors of a module by what follows its name, as
(dtype, shape, bytes) for safetensors_file, of the codes, scales and zeros it is given.

Layouts after AutoGPTQ's qlinear_cuda, AutoAWQ's gemm and gemv, compressed-tensors' pack_quantized and naive_quantized,
transformers' bitsandbytes serialization and gpt-oss. tests/data/quantized holds what those tools themselves write.
"""

from __future__ import annotations

import json

import numpy as np

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def words_of(codes, bits: int, per_word: int = 0) -> list[int]:
    """The 32-bit words of a list of codes: one run of bits, or so many codes in each word and the rest empty."""
    codes = [int(code) for code in codes]
    if per_word:
        codes += [0] * (-len(codes) % per_word)
        chunks = [codes[i : i + per_word] for i in range(0, len(codes), per_word)]
        return [sum(code << (bits * i) for i, code in enumerate(chunk)) for chunk in chunks]
    whole = sum(code << (bits * i) for i, code in enumerate(codes))
    assert len(codes) * bits % 32 == 0
    return [whole >> (32 * i) & 0xFFFFFFFF for i in range(len(codes) * bits // 32)]


def i32(words) -> tuple[str, tuple[int, ...], bytes]:
    """A tensor of words. words  # [rows][columns]"""
    array = np.array(words, np.uint32)
    return "I32", array.shape, array.astype("<u4").tobytes()


def plain(values, dtype: str = "F16") -> tuple[str, tuple[int, ...], bytes]:
    """Numbers as they are."""
    kind = {"F16": "<f2", "F32": "<f4", "I32": "<i4", "I64": "<i8", "U8": "u1", "I8": "i1"}[dtype]
    array = np.asarray(values)
    return dtype, array.shape, array.astype(kind).tobytes()


def gptq(codes, scale, zero, columns, bits: int, *, version: int = 1, index: bool = True) -> dict:
    """codes  # [rows, cols]; scale, zero  # [rows, groups]; columns  # [cols], the group of each"""
    kept = zero if version == 2 else zero - 1
    tensors = {
        ".qweight": i32(np.array([words_of(row, bits) for row in codes], np.uint32).T),
        ".qzeros": i32([words_of(group, bits) for group in kept.T]),
        ".scales": plain(scale.T),
    }
    return tensors | ({".g_idx": plain(columns, "I32")} if index else {})


def awq_gemm(codes, scale, zero) -> dict:
    def packed(matrix):
        """matrix  # [inputs or groups, rows]"""
        return i32([words_of(row.reshape(-1, 8)[:, AWQ_ORDER].ravel(), 4) for row in matrix])

    return {".qweight": packed(codes.T), ".qzeros": packed(zero.T), ".scales": plain(scale.T)}


def awq_gemv(codes, scale, zero, size: int) -> dict:
    groups = scale.shape[1]
    multiple = {32: 4, 64: 2}.get(size, 1)
    words = (groups + 7) // 8
    width = (words + multiple - 1) // multiple * multiple
    pad = ((0, 0), (0, width * 8 - groups))
    return {
        ".qweight": i32([words_of(row, 4) for row in codes]),
        ".qzeros": i32([words_of(row, 4) for row in np.pad(zero, pad)]),
        ".scales": plain(np.pad(scale, pad)),
    }


def compressed(codes, scale, zero, columns, bits: int, *, packed_zero: bool = True) -> dict:
    """zero None: symmetric. columns None: without g_idx."""
    tensors = {
        ".weight_packed": i32([words_of(row, bits, 32 // bits) for row in codes]),
        ".weight_scale": plain(scale),
        ".weight_shape": plain(codes.shape, "I64"),
    }
    if zero is not None and packed_zero:
        tensors[".weight_zero_point"] = i32(np.array([words_of(g, bits, 32 // bits) for g in zero.T], np.uint32).T)
    elif zero is not None:
        tensors[".weight_zero_point"] = plain(zero - (1 << (bits - 1)), "I8")
    return tensors | ({} if columns is None else {".weight_g_idx": plain(columns, "I32")})


def four_bit(codes, table, absmax, size: int, name: str, nested: tuple | None = None) -> dict:
    """bitsandbytes. absmax  # [blocks]; nested: (map [256], absmax [nested blocks], block, offset), absmax codes."""
    flat = codes.ravel()
    state = {"quant_type": name, "blocksize": size, "dtype": "float16", "shape": list(codes.shape)}
    tensors = {".weight.absmax": plain(absmax, "U8" if nested else "F32"), ".weight.quant_map": plain(table, "F32")}
    if nested:
        tensors[".weight.nested_quant_map"] = plain(nested[0], "F32")
        tensors[".weight.nested_absmax"] = plain(nested[1], "F32")
        state |= {"nested_blocksize": nested[2], "nested_dtype": "float32", "nested_offset": float(nested[3])}
    told = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return {
        ".weight": plain((flat[0::2] * 16 + flat[1::2]).reshape(-1, 1), "U8"),
        **tensors,
        f".weight.quant_state.bitsandbytes__{name}": plain(told, "U8"),
    }
