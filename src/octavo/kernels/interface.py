"""csrc/octavo.h in ctypes: its constants and its structs, field by field, in order. Knows no library that is loaded."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

import numpy as np

_KINDS = (
    "embed", "norm", "qkv", "attend", "proj", "ffn_in", "head", "renorm", "route", "moe_in", "moe_out",
    "latent", "latent_query", "per_head", "hidden", "conv")  # fmt: skip
KINDS = {name: number for number, name in enumerate(_KINDS)}
NORMS = {"none": 0, "rms": 1, "layer": 2}
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "relu2": 4, "swiglu_oai": 5}
SCORINGS = {"softmax": 0, "sigmoid": 1}


class CWeight(ctypes.Structure):
    """octavo_weight"""

    _fields_ = [("layout", c_int32), ("rows", c_int32), ("cols", c_int32), ("group", c_int32), ("data", c_void_p)]


class CAct(ctypes.Structure):
    """octavo_act"""

    _fields_ = [("bits", c_int32), ("group", c_int32), ("order", c_void_p)]


class CNorm(ctypes.Structure):
    """octavo_norm"""

    _fields_ = [("kind", c_int32), ("eps", c_float), ("weight", c_void_p), ("bias", c_void_p)]


class CHeadNorm(ctypes.Structure):
    """octavo_head_norm"""

    _fields_ = [("norm", CNorm), ("whole", c_int32), ("stride", c_int32)]


class CExpert(ctypes.Structure):
    """octavo_expert"""

    _fields_ = [("weight", CWeight * 2), ("bias", c_void_p * 2)]


class CRouting(ctypes.Structure):
    """octavo_routing"""

    _fields_ = [
        *((name, c_int32) for name in ("scoring", "top", "groups", "top_groups", "group_top", "renormalise")),
        ("correction", c_void_p),
    ]


class COp(ctypes.Structure):
    """octavo_op"""

    _fields_ = [
        ("kind", c_int32),
        ("layer", c_int32),
        ("group", c_int32),
        ("source", c_int32),
        ("out", c_int32),
        ("act", CAct),
        ("act_out", CAct),
        ("scale", c_float),
        ("soft_cap", c_float),
        ("clip", c_float),
        ("weight", CWeight * 3),
        ("vec", c_void_p * 3),
        ("norm", CNorm),
        ("head_norm", CHeadNorm * 2),
        ("head_dim", c_int32),
        ("rope_cos", c_void_p),
        ("rope_sin", c_void_p),
        ("positions", c_void_p),
        ("types", c_void_p),
        ("activation", c_int32),
        ("window", c_int32),
        ("all_keys", c_int32),
        ("slopes", c_void_p),
        ("sinks", c_void_p),
        ("gated", c_int32),
        ("apart", c_int32),
        ("routing", CRouting),
        ("expert", ctypes.POINTER(CExpert)),
        ("experts", c_int32),
        ("top", c_int32),
        ("limit", c_float),
        ("taps", c_void_p),
        ("tap_bias", c_void_p),
    ]


class Config(ctypes.Structure):
    """octavo_config: shape of the model and of the largest step."""

    _fields_ = [
        (name, c_int32)
        for name in (
            "width",
            "heads",
            "kv_heads",
            "head_dim",
            "vocab",
            "kv_float32",
            "groups",
            "max_tokens",
            "max_len",
            "head_rows",
            "threads",
        )
    ]


BATCH_ARRAYS = {
    "ids": np.int32,
    "positions": np.int32,
    "starts": np.int32,
    "slots": np.int32,
    "tables": np.int32,
    "types": np.int32,
    "rows": np.int32,
    "target": np.int32,
    "top": np.int32,
    "top_k": np.int32,
    "temperature": np.float32,
    "top_p": np.float32,
    "min_p": np.float32,
    "presence": np.float32,
    "frequency": np.float32,
    "repetition": np.float32,
    "seed": np.uint64,
    "position": np.int64,
    "history_starts": np.int64,
    "history": np.int32,
    "prompt_lens": np.int32,
    "bias_starts": np.int64,
    "bias_ids": np.int32,
    "bias_values": np.float32,
    "mask": np.int32,
    "masks": np.int32,
    "steps": np.int64,
    "extras": np.float32,
    "dry_starts": np.int64,
    "dry_ids": np.int32,
    "dry_values": np.float32,
    "named_starts": np.int64,
    "named": np.int32,
    "given": np.int32,
}
DRAWN_ARRAYS = ("tokens", "ranks", "top_ids", "logprobs", "top_logprobs", "bad", "surprise", "logits", "vectors")


class CBatch(ctypes.Structure):
    """octavo_batch"""

    _fields_ = [
        ("tokens", c_int32),
        ("runs", c_int32),
        ("head", c_int32),
        ("table_pages", c_int64),
        ("mask_words", c_int64),
        *((name, c_void_p) for name in BATCH_ARRAYS),
    ]


class CDrawn(ctypes.Structure):
    """octavo_drawn"""

    _fields_ = [("alternatives", c_int32), *((name, c_void_p) for name in DRAWN_ARRAYS)]
