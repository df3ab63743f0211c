"""What a step cannot do without: bytes to move and operations to compute, op by op. Pure counting, nothing is run.

Bytes are those of weights, of the rows of the token table, and of keys and values, read or written once in a step; what
one op leaves for the next is taken to stay in the caches and not counted. Of experts, as many are read as would be if
all were equally likely to be chosen. Operations are products and sums, a multiplication and its addition being two, by
the form of their inputs: int8, int16, bfloat16 or float32. Of attention, the two products count, of norms four
operations for each element, of drawing one comparison for each logit; softmax, rotations, activation functions and
quantization do not count. Padding never counts, but for the bytes of a head's places that hold no dim: they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from octavo.core.layout import KV_BYTES
from octavo.kernels.weight import PANEL, WORD_BITS, Weight
from octavo.program.batch import Batch
from octavo.program.ops import (
    Act,
    Attend,
    Conv,
    Embed,
    FfnIn,
    Head,
    Hidden,
    Latent,
    LatentQuery,
    MoeIn,
    MoeOut,
    Norm,
    Op,
    PerHead,
    Program,
    Proj,
    Qkv,
    Renorm,
    Route,
)

EXPERTS = ("route", "moe_in", "moe_out")
LATENT = ("latent", "latent_query", "per_head")
ATTENTION = ("qkv", "latent", "latent_query", "attend", "per_head", "conv", "proj(o)")
KINDS = ("embed", "norm", *ATTENTION, "ffn_in", "proj(down)", *EXPERTS, "head", "draw")
PEAKS = {  # names of native.measure
    "int8": "int8_gop_s",
    "int16": "int16_gop_s",
    "bf16": "bf16_gflop_s",
    "fp32": "fp32_gflop_s",
}
NAMES = {
    Embed: "embed",
    Renorm: "norm",
    Hidden: "norm",
    Norm: "norm",
    Qkv: "qkv",
    Attend: "attend",
    FfnIn: "ffn_in",
    Head: "head",
}
NAMES |= {Conv: "conv", Latent: "latent", LatentQuery: "latent_query", PerHead: "per_head"}
NAMES |= {Route: "route", MoeIn: "moe_in", MoeOut: "moe_out"}
BITS = {8: "int8", WORD_BITS: "int16", 16: "bf16", 32: "fp32"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes read and written, and operations by the form of their inputs. Costs add up."""

    read: int = 0
    written: int = 0
    int8: int = 0
    bf16: int = 0
    fp32: int = 0
    int16: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return self.read + self.written

    @property
    def operations(self) -> int:
        """Operations of all forms."""
        return self.int8 + self.bf16 + self.fp32

    def moving(self, rates: Mapping[str, float]) -> float:
        """Seconds that its bytes take at the bandwidth of `rates`, which are those of native.measure."""
        return self.moved / rates["read_gb_s"] / 1e9

    def computing(self, rates: Mapping[str, float]) -> float:
        """Seconds that its operations take at the peaks of `rates`; the times of different forms add up."""
        return float(sum(getattr(self, form) / rates[rate] for form, rate in PEAKS.items())) / 1e9

    def limit(self, rates: Mapping[str, float]) -> float:
        """Seconds below which it cannot be done: the larger of both (Williams et al. 2009, "Roofline")."""
        return max(self.moving(rates), self.computing(rates))


def kinds(program: Program) -> list[str]:
    """What each op of a program is, one of KINDS: projections are told apart by what they read."""
    out: list[str] = []
    sources = ["proj(o)", "proj(o)"]  # of what stands in h[0] and h[1]
    for op in program.ops:
        match op:
            case Attend() | PerHead() | Conv():
                sources[op.out] = "proj(o)"
            case FfnIn():
                sources[op.out] = "proj(down)"
        out.append(sources[op.source] if isinstance(op, Proj) else NAMES[type(op)])
    return out


def costs(program: Program, batch: Batch) -> list[Cost]:
    """The cost of each op of a program in one step, and behind them that of drawing."""
    drawing = Cost(fp32=len(batch.head.rows) * program.vocab if isinstance(program.ops[-1], Head) else 0)
    return [*(_cost(op, program, batch) for op in program.ops), drawing]


def by_kind(program: Program, values: list[Cost]) -> dict[str, Cost]:
    """Sums of `costs` over the ops of each kind, in the order of KINDS; what the program lacks is left out."""
    out = dict.fromkeys(KINDS, Cost())
    names = [*kinds(program), "draw"]
    for kind, value in zip(names, values, strict=True):
        out[kind] += value
    return {kind: value for kind, value in out.items() if kind in names}


def _cost(op: Op, program: Program, batch: Batch) -> Cost:
    tokens, head = len(batch.ids), len(batch.head.rows)
    token_bytes = program.kv.token_bytes // program.kv.layers
    match op:
        case Embed():
            additions = (op.scale != 1) + (op.positions is not None)
            return Cost(read=tokens * _row_bytes(op), fp32=tokens * program.width * additions)
        case Norm() | Renorm():
            return Cost(fp32=4 * tokens * program.width if op.norm.kind != "none" else 0)
        case Qkv():
            return _qkv(op, program, tokens) + Cost(written=tokens * token_bytes)
        case Latent():
            matrices = (op.weight,) if op.narrow is None else (op.weight, op.narrow)
            normed = op.rank + (op.narrow.rows if op.narrow else 0)
            both = Cost(written=tokens * token_bytes, fp32=4 * tokens * normed)
            return _products(matrices, tokens, op.act) + both
        case LatentQuery():
            return _products((op.weight,), tokens, op.act) + _products((op.up,), tokens, op.act_up)
        case PerHead():
            return _products((op.weight,), tokens, op.act)
        case Conv():
            return _products((op.b, op.c, op.z), tokens, op.act) + _conv(op, program, batch)
        case Attend():
            seen, read = _keys(op, batch)
            dims = op.head_dim or program.kv.head_dim
            products = 2 * seen * program.heads * ((program.kv.head_dim if op.apart else dims) + dims)
            read *= token_bytes
            return Cost(read, fp32=products) if program.kv.dtype == "float32" else Cost(read, bf16=products)
        case Proj():
            after = op.post is not None and op.post.kind != "none"
            added = 4 * tokens * program.width * after + tokens * program.width * (op.scale != 1)
            return _products((op.weight,), tokens, op.act) + Cost(fp32=added)
        case FfnIn():
            return _products((op.up,) if op.gate is None else (op.gate, op.up), tokens, op.act)
        case Route():
            return _products((op.weight,) if op.gate is None else (op.weight, op.gate), tokens, Act(32))
        case MoeIn():
            matrices = (each.gate, each.up) if (each := op.experts[0]).gate else (each.up,)
            return _mixed(matrices, len(op.experts), op.top, tokens, op.act)
        case MoeOut():
            return _mixed((op.weights[0],), len(op.weights), op.top, tokens, op.act)
        case Hidden():
            return Cost(fp32=4 * head * program.width if op.norm.kind != "none" else 0)
        case Head():
            norm = 4 * head * program.width * (op.norm.kind != "none")
            return _products((op.weight,), head, op.act) + Cost(fp32=norm)


def _qkv(op: Qkv, program: Program, tokens: int) -> Cost:
    """Projections to the dims of heads, and their norms."""
    places = program.kv.head_dim
    dims = op.head_dim or places
    whole = _products((op.q, op.k, op.v), tokens, op.act)
    products = {form: getattr(whole, form) * dims // places for form in BITS.values()}
    normed = sum(weight.rows // places * dims for weight, norm in ((op.q, op.q_norm), (op.k, op.k_norm)) if norm)
    return Cost(read=whole.read, **products) + Cost(fp32=4 * tokens * normed)


def _conv(op: Conv, program: Program, batch: Batch) -> Cost:
    """A convolution beside its matrices: a product for each gate, and for each tap of each number two operations."""
    tokens, width, taps = len(batch.ids), op.b.rows, len(op.taps)
    number = KV_BYTES[program.kv.dtype] * width
    before = int(np.minimum(batch.positions[batch.starts[:-1]], taps - 1).sum())  # of each run, tokens that it reads
    return Cost(number * before, number * tokens, fp32=tokens * width * (2 + 2 * taps))


def _products(weights: tuple[Weight, ...], rows: int, act: Act) -> Cost:
    """Matrices against `rows` rows of inputs in the form of `act`; none, and nothing is read."""
    if rows == 0:
        return Cost()
    count = sum(2 * rows * weight.rows * weight.cols for weight in weights)
    return Cost(read=sum(weight.nbytes for weight in weights), **{BITS[act.bits]: count})


def _mixed(weights: tuple[Weight, ...], experts: int, top: int, tokens: int, act: Act) -> Cost:
    """As `_products` of the matrices of each expert: read are as many as so many tokens choose of equally good ones."""
    read = experts * (1 - (1 - top / experts) ** tokens)
    one = _products(weights, top * tokens, act)
    return replace(one, read=round(read * one.read))


def _keys(op: Attend, batch: Batch) -> tuple[int, int]:
    """Keys that all rows see together, and keys that all runs read."""
    own, lengths = batch.positions, np.repeat(batch.kv_lens, np.diff(batch.starts))
    window = op.window or int(batch.kv_lens.max(initial=1))
    end = own + 1 if op.causal else np.minimum(lengths, own + window)
    first = np.maximum(0, own - window + 1)
    behind = np.maximum(0, own[batch.starts[:-1]] - window + 1)  # of each run, keys that none of its rows sees
    return int((end - first).sum()), int((batch.kv_lens - behind).sum())


def _row_bytes(op: Embed) -> int:
    """What one row of the table takes, and its learned position."""
    positions = 0 if op.positions is None else op.positions[0].nbytes
    return op.table.nbytes // (op.table.panels * PANEL) + positions
