"""The binding: csrc/octavo.h by ctypes. Owns the choice of the library and of the instruction set.

`Plan` keeps every array it points to alive. Knows nothing of models. ctypes releases the GIL during every call.
Environment: OCTAVO_ISA forces one of `isas()`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import octavo.kernels
from octavo.kernels.interface import (
    ACTIVATIONS,
    BATCH_ARRAYS,
    KINDS,
    NORMS,
    SCORINGS,
    CAct,
    CBatch,
    CDrawn,
    CExpert,
    CHeadNorm,
    CNorm,
    Config,
    COp,
    CRouting,
    CWeight,
)
from octavo.kernels.weight import Weight

LIBRARY = "liboctavo_native.so"
Array = npt.NDArray[Any]
STRUCTS = (CWeight, CAct, CNorm, CHeadNorm, CExpert, CRouting, COp, Config, CBatch, CDrawn)  # as octavo_sizes has them


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The native library, loaded once. Raises ImportError where it was not built, or is another revision's."""
    for folder in octavo.kernels.__path__:
        path = Path(folder) / LIBRARY
        if path.exists():
            lib = ctypes.CDLL(str(path))
            if not _fits(lib):
                raise ImportError(f"{path} belongs to another revision of octavo: install it again to build it anew")
            return _declare(lib)
    raise ImportError(f"{LIBRARY} is not beside octavo.kernels: install octavo with `pip install .` to build it")


def _fits(lib: ctypes.CDLL) -> bool:
    """Whether the library's structs are as large as ours."""
    try:
        sizes = lib.octavo_sizes
    except AttributeError:
        return False
    sizes.restype = POINTER(c_int32 * len(STRUCTS))
    return list(sizes().contents) == [ctypes.sizeof(struct) for struct in STRUCTS]


def _declare(lib: ctypes.CDLL) -> ctypes.CDLL:
    """Give every function its types."""
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "octavo_isas": (c_char_p, []),
        "octavo_create": (c_void_p, [POINTER(Config), POINTER(COp), c_int32, c_char_p]),
        "octavo_destroy": (None, [c_void_p]),
        "octavo_workspace": (c_int64, [POINTER(Config), POINTER(COp), c_int32]),
        "octavo_bind_pages": (None, [c_void_p, c_void_p, c_int64]),
        "octavo_run": (None, [c_void_p, POINTER(CBatch), POINTER(CDrawn)]),
        "octavo_times": (c_int64, [c_void_p, POINTER(c_double), c_int32]),
        "octavo_measure": (c_int32, [c_char_p, c_int32, POINTER(c_double)]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


def isas() -> list[str]:
    """Instruction sets this processor can run, best first: avx512bf16, avx512, avx2, portable."""
    names: bytes = library().octavo_isas()
    return names.decode().split()


def isa() -> str:
    """The instruction set in use: OCTAVO_ISA, or the best. Raises ValueError where that cannot run here."""
    available = isas()
    chosen = os.environ.get("OCTAVO_ISA") or available[0]
    if chosen not in available:
        raise ValueError(f"OCTAVO_ISA: {chosen!r} cannot run on this processor; one of {', '.join(available)} can")
    return chosen


def features() -> list[str]:
    """The processor's flags that kernels are chosen by, as Linux names them."""
    wanted = (
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
        "amx_int8",
        "asimd",
    )
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    flags = {word for line in text.splitlines() if line.startswith(("flags", "Features")) for word in line.split()}
    return [name for name in wanted if name in flags]


RATES = ("read_gb_s", "int8_gop_s", "bf16_gflop_s", "fp32_gflop_s", "int16_gop_s")  # in the order of octavo_measure


def measure(threads: int, isa_name: str | None = None) -> dict[str, float]:
    """What this machine can do with `threads` threads, best of three: memory read and arithmetic peaks.

    isa_name: whose arithmetic is measured, None: that of `isa()`. Raises MemoryError where there is no memory, 64 to
    256 MiB a thread, or no thread.
    """
    if threads < 1:
        raise ValueError(f"threads: {threads}; at least 1 is needed")
    rates = (c_double * len(RATES))()
    if library().octavo_measure((isa_name or isa()).encode(), threads, rates) != 0:
        raise MemoryError(f"no memory or threads to measure {threads} threads with: at least 64 MiB each are needed")
    return dict(zip(RATES, rates, strict=True))


@dataclass(frozen=True)
class ActArgs:
    """octavo_act. order: int32, as long as the inputs"""

    bits: int = 32
    group: int = 0
    order: Array | None = None


@dataclass(frozen=True)
class NormArgs:
    """A norm over the last axis: octavo_norm. weight, bias: as long as that axis."""

    kind: str = "none"
    eps: float = 0.0
    weight: Array | None = None
    bias: Array | None = None


@dataclass(frozen=True)
class HeadNormArgs:
    """octavo_head_norm: over all heads together (`whole`), or each apart with parts of the norm `stride` floats on."""

    norm: NormArgs
    whole: bool = False
    stride: int = 0


@dataclass(frozen=True)
class RoutingArgs:
    """octavo_routing"""

    scoring: str
    top: int
    groups: int = 1
    top_groups: int = 1
    group_top: int = 1
    renormalise: bool = False
    correction: Array | None = None


@dataclass(frozen=True)
class ExpertArgs:
    """octavo_expert: one or two matrices and as many biases."""

    weights: tuple[Weight, ...]
    biases: tuple[Array | None, ...]


@dataclass(frozen=True)
class OpArgs:
    """One operation for the native executor; the fields are those of octavo_op."""

    kind: str
    layer: int = 0
    group: int = 0
    source: int = 0
    out: int = 0
    act: ActArgs = ActArgs()
    act_out: ActArgs = ActArgs()
    scale: float = 1.0
    soft_cap: float = 0.0
    clip: float = 0.0
    weights: tuple[Weight, ...] = ()
    vecs: tuple[Array | None, ...] = ()
    norm: NormArgs = NormArgs()
    head_norms: tuple[HeadNormArgs | None, ...] = ()
    head_dim: int = 0
    rope: tuple[Array, Array] | None = None
    positions: Array | None = None
    types: Array | None = None
    activation: str = "silu"
    window: int = 0
    causal: bool = True
    slopes: Array | None = None
    sinks: Array | None = None
    gated: bool = False
    apart: bool = False
    routing: RoutingArgs | None = None
    experts: tuple[ExpertArgs, ...] = ()
    expert_count: int = 0
    top: int = 0
    limit: float = 0.0
    taps: Array | None = None
    tap_bias: Array | None = None


def _pack(op: OpArgs) -> COp:
    out = COp(kind=KINDS[op.kind], activation=ACTIVATIONS[op.activation], all_keys=not op.causal)
    for name in (
        "layer",
        "group",
        "source",
        "out",
        "scale",
        "soft_cap",
        "clip",
        "head_dim",
        "window",
        "gated",
        "apart",
        "top",
        "limit",
    ):
        setattr(out, name, getattr(op, name))
    out.act, out.act_out = _act(op.act), _act(op.act_out)
    for i, weight in enumerate(op.weights):
        out.weight[i] = _weight(weight)
    for i, vec in enumerate(op.vecs):
        out.vec[i] = _floats(f"{op.kind}, vector {i}", vec)
    out.norm = _norm(f"{op.kind}, norm", op.norm)
    for i, head in enumerate(op.head_norms):
        if head is not None:
            out.head_norm[i] = CHeadNorm(_norm(f"{op.kind}, norm {i}", head.norm), head.whole, head.stride)
    if op.rope is not None:
        out.rope_cos, out.rope_sin = (_pointer(f"{op.kind}, rope", table, np.float32) for table in op.rope)
    for name in ("positions", "types", "slopes", "sinks", "taps", "tap_bias"):
        setattr(out, name, _floats(f"{op.kind}, {name}", getattr(op, name)))
    out.experts = op.expert_count
    if op.routing is not None:
        out.routing = _routing(op.routing)
    if op.experts:
        out.expert = (CExpert * len(op.experts))(*map(_expert, op.experts))
    return out


def _act(act: ActArgs) -> CAct:
    order = None if act.order is None else _pointer("act, order", act.order, np.int32)
    return CAct(act.bits, act.group, order)


def _weight(weight: Weight) -> CWeight:
    assert weight.data.ctypes.data % 64 == 0, "a weight does not start on a cache line"
    return CWeight(weight.layout, weight.rows, weight.cols, weight.group, weight.data.ctypes.data)


def _routing(routing: RoutingArgs) -> CRouting:
    out = CRouting(SCORINGS[routing.scoring], correction=_floats("route, correction", routing.correction))
    for name in ("top", "groups", "top_groups", "group_top", "renormalise"):
        setattr(out, name, getattr(routing, name))
    return out


def _expert(expert: ExpertArgs) -> CExpert:
    out = CExpert()
    for i, (weight, bias) in enumerate(zip(expert.weights, expert.biases, strict=True)):
        out.weight[i], out.bias[i] = _weight(weight), _floats(f"expert, bias {i}", bias)
    return out


def _norm(name: str, norm: NormArgs) -> CNorm:
    weight, bias = _floats(f"{name}, weight", norm.weight), _floats(f"{name}, bias", norm.bias)
    return CNorm(NORMS[norm.kind], norm.eps, weight, bias)


def _floats(name: str, array: Array | None) -> int | None:
    return None if array is None else _pointer(name, array, np.float32)


def _pointer(name: str, array: Array, dtype: Any) -> int:
    if array.dtype != dtype or not array.flags.c_contiguous:
        order = "contiguous" if array.flags.c_contiguous else "not contiguous"
        raise TypeError(f"{name}: {order} {array.dtype}; contiguous {np.dtype(dtype)} is needed")
    return int(array.ctypes.data)


@dataclass(frozen=True)
class Times:
    """Seconds spent in `runs` runs: in each op, in drawing, and in all; what is over was spent between the ops."""

    runs: int
    ops: tuple[float, ...]
    draw: float
    total: float


class Plan:
    """A native executor and all it points to. Not thread-safe."""

    _handle: int | None = None

    def __init__(self, config: Config, ops: Sequence[OpArgs], isa_name: str) -> None:
        """Raises ValueError for an `isa_name` that cannot run here, MemoryError without working memory or threads."""
        if isa_name not in isas():
            raise ValueError(f"isa: {isa_name!r} cannot run on this processor; one of {', '.join(isas())} can")
        if config.threads < 1:
            raise ValueError(f"threads: {config.threads}; at least 1 is needed")
        self._process = os.getpid()
        self._ops = tuple(ops)  # keeps weights, vectors and tables alive
        self._pages: npt.NDArray[np.uint8] | None = None
        self._vocab, self._width = int(config.vocab), int(config.width)
        self._groups = int(config.groups)
        self._packed = packed = (COp * len(ops))(*(_pack(op) for op in ops))  # keeps lists of experts alive
        self.workspace_bytes = int(library().octavo_workspace(config, packed, len(ops)))
        self._handle = library().octavo_create(config, packed, len(ops), isa_name.encode())
        if not self._handle:
            raise MemoryError(f"no {self.workspace_bytes} bytes of working memory, or no {config.threads} threads")

    def bind_pages(self, pages: npt.NDArray[np.uint8], layer_stride: int) -> None:
        """Give the memory of the pages: [layers][pages][kv_heads][K | V], `layer_stride` bytes a layer."""
        assert self._handle and pages.ctypes.data % 64 == 0
        self._pages = pages
        library().octavo_bind_pages(self._handle, pages.ctypes.data, layer_stride)

    def run(self, arrays: dict[str, Array], alternatives: int) -> dict[str, Array]:
        """One step. `arrays` holds BATCH_ARRAYS; gives tokens, ranks, ..., and the `logits` of rows that are given.

        What else is said of given rows means nothing.
        """
        heads = len(arrays["rows"])
        out: dict[str, Array] = {
            "tokens": np.empty(heads, np.int32),
            "ranks": np.empty(heads, np.int32),
            "top_ids": np.empty((heads, alternatives), np.int32),
            "logprobs": np.empty(heads, np.float32),
            "top_logprobs": np.empty((heads, alternatives), np.float32),
            "bad": np.empty(heads, np.uint8),
            "surprise": np.empty(heads, np.float32),
        }
        if "given" in arrays:
            out["logits"] = np.empty((int(arrays["given"].max(initial=-1)) + 1, self._vocab), np.float32)
        self._step(arrays, alternatives, out)
        return out

    def vectors(self, arrays: dict[str, Array]) -> Array:
        """As `run`, of a plan that ends with hidden. float32 [H, width]"""
        out = np.empty((len(arrays["rows"]), self._width), np.float32)
        self._step(arrays, 0, {"vectors": out})
        return out

    def _step(self, arrays: dict[str, Array], alternatives: int, out: dict[str, Array]) -> None:
        assert self._handle, "the executor is closed"
        assert self._pages is not None, "no pages are bound"
        batch = CBatch(tokens=len(arrays["ids"]), runs=len(arrays["slots"]), head=len(arrays["rows"]))
        batch.table_pages, rest = divmod(arrays["tables"].shape[1], self._groups)
        assert not rest, f"tables of {self._groups} groups of layers that are not equally long"
        batch.mask_words = arrays["masks"].shape[1]
        assert not batch.mask_words or batch.mask_words * 32 >= self._vocab, "masks shorter than the vocabulary"
        for name, array in arrays.items():
            setattr(batch, name, _pointer(name, array, BATCH_ARRAYS[name]))
        drawn = CDrawn(alternatives=alternatives, **{name: array.ctypes.data for name, array in out.items()})
        library().octavo_run(self._handle, batch, drawn)

    def times(self, reset: bool = True) -> Times:
        """Where time went since the plan was made or the times last reset."""
        assert self._handle, "the executor is closed"
        seconds = (c_double * (len(self._ops) + 2))()
        runs = int(library().octavo_times(self._handle, seconds, reset))
        return Times(runs, tuple(seconds[:-2]), seconds[-2], seconds[-1])

    def close(self) -> None:
        """Stop the threads. May be called twice. Does nothing in a forked process, which has none of the threads."""
        if self._handle and self._process == os.getpid():
            library().octavo_destroy(self._handle)
        self._handle = None

    def __del__(self) -> None:
        self.close()
