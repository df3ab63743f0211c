"""The definition of correct: one plain numpy function for each operation, slow and obvious.

Everything is float32, products included, so results depend on the order in which the BLAS adds: equal for another
batching only to float tolerance, unlike the native executor. What is rounded or quantized is said in ops.py and done
here exactly so: int8 activations are codes times scales, multiplied as float32. Fresh pages hold NaN: who reads a place
that was never written gets a bad row. Knows no model by name, and no request.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.core.layout import PAGE
from octavo.kernels.weight import Weight, from_bfloat16, to_bfloat16
from octavo.program.batch import Batch, Drawn, Floats, Ints
from octavo.program.ops import Act, Attend, Embed, FfnIn, Head, Norm, Op, Program, Proj, Qkv, Rope
from octavo.program.sampling import draw

Pages = npt.NDArray[np.float32] | npt.NDArray[np.uint16]


def rounded(values: Floats, dtype: str) -> Floats:
    """Values as the cache's dtype holds them, in float32."""
    return from_bfloat16(to_bfloat16(values)) if dtype == "bfloat16" else values


def form(values: Floats, act: Act) -> Floats:
    """Values as a projection reads them. values, result  # [rows, inputs]"""
    if act.bits == 32:
        return values
    if act.bits == 16:
        return rounded(values, "bfloat16")
    groups = values.reshape(len(values), values.shape[1] // act.group, act.group)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest != 0)
    codes = np.clip(np.rint(groups * inverse), -127, 127)
    return np.asarray((codes * (largest / np.float32(127))).reshape(values.shape), np.float32)


def linear(h: Floats, matrix: Floats, bias: Floats | None) -> Floats:
    """W h + b. h  # [tokens, inputs]; matrix  # [outputs, inputs]; result  # [tokens, outputs]"""
    product: Floats = h @ matrix.T
    return product if bias is None else product + bias


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x / sqrt(mean(x^2) + eps) * weight. x  # [tokens, width]"""
    mean = np.mean(x * x, axis=1, keepdims=True, dtype=np.float32)
    return np.asarray(x / np.sqrt(mean + np.float32(eps)) * weight, np.float32)


def rotate(heads: Floats, rope: Rope, positions: Ints) -> Floats:
    """Turn the two halves of each head against each other. heads  # [tokens, heads, head_dim]"""
    cos, sin = rope.cos[positions][:, None], rope.sin[positions][:, None]
    first, second = np.split(heads, 2, axis=2)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=2)


def silu(z: Floats) -> Floats:
    """z / (1 + exp(-z))."""
    return np.asarray(z / (1 + np.exp(-z)), np.float32)


def attention(q: Floats, keys: Floats, values: Floats, positions: Ints, scale: float, dtype: str) -> Floats:
    """Causal softmax attention of one run.

    q  # [tokens, heads, head_dim]; keys, values  # [positions so far, kv_heads, head_dim]; result as q
    """
    heads, kv_heads = q.shape[1], keys.shape[1]
    future = np.arange(len(keys)) > positions[:, None]  # [tokens, positions]
    scaled = rounded(q * np.float32(scale), dtype)
    out = np.empty_like(q)
    for head in range(heads):
        source = head * kv_heads // heads
        scores = np.where(future, -np.inf, scaled[:, head] @ keys[:, source].T).astype(np.float32)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        total = weights.sum(axis=1, keepdims=True)
        out[:, head] = rounded(weights, dtype) @ values[:, source] / total
    return out


class Reference:
    """Runs a program in numpy. Weights are dequantized once, when made; implements `Executor`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        held = {id(weight): weight for op in program.ops for weight in _weights(op)}
        self._dense = {key: weight.dequantize() for key, weight in held.items()}
        self._pages: Pages | None = None

    def allocate(self, pages: int) -> None:
        """Take memory for this many pages, as declared by the program's KvLayout."""
        kv = self.program.kv
        shape = (kv.layers, 2, pages, PAGE, kv.kv_heads, kv.head_dim)
        if kv.dtype == "bfloat16":
            self._pages = to_bfloat16(np.full(1, np.nan, np.float32)).repeat(int(np.prod(shape))).reshape(shape)
        else:
            self._pages = np.full(shape, np.nan, np.float32)

    def run(self, batch: Batch) -> Drawn:
        """One step; see Executor."""
        return draw(self.logits(batch), batch.head)

    def logits(self, batch: Batch) -> Floats:
        """One step, up to the raw logits of the head's rows. [H, vocab]"""
        x = h = q = np.empty((0, 0), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported by `Drawn.bad`
            for op in self.program.ops:
                match op:
                    case Embed():
                        x = self._dense[id(op.table)][batch.ids] * np.float32(op.scale)
                    case Norm():
                        h = form(rms_norm(x, op.weight, op.eps), op.act)
                    case Qkv():
                        q = self._qkv(op, h, batch)
                    case Attend():
                        h = form(self._attend(op, q, batch), op.act)
                    case Proj():
                        x = x + linear(h, self._dense[id(op.weight)], op.bias)
                    case FfnIn():
                        gate = linear(h, self._dense[id(op.gate)], op.gate_bias)
                        up = linear(h, self._dense[id(op.up)], op.up_bias)
                        h = form(silu(gate) * up, op.act_out)
                    case Head():
                        h = form(rms_norm(x[batch.head.rows], op.norm, op.eps), op.act)
                        return linear(h, self._dense[id(op.weight)], None)
        raise ValueError("the program does not end with Head")

    def workspace_bytes(self) -> int:
        """Bytes of the dequantized weights, which stand beside the packed ones."""
        return sum(matrix.nbytes for matrix in self._dense.values())

    def close(self) -> None:
        """Release the pages."""
        self._pages = None

    def _qkv(self, op: Qkv, h: Floats, batch: Batch) -> Floats:
        """Write keys and values to their pages; give the rotated queries. [tokens, heads, head_dim]"""
        split = (len(h), -1, self.program.kv.head_dim)
        q = linear(h, self._dense[id(op.q)], op.q_bias).reshape(split)
        k = linear(h, self._dense[id(op.k)], op.k_bias).reshape(split)
        v = linear(h, self._dense[id(op.v)], op.v_bias).reshape(split)
        k = rotate(k, op.rope, batch.positions)
        slots = np.repeat(batch.slots, np.diff(batch.starts))
        page = batch.tables[slots, batch.positions // PAGE]
        for part, rows in enumerate((k, v)):
            stored = rows if self._held.dtype == np.float32 else to_bfloat16(rows)
            self._held[op.layer, part, page, batch.positions % PAGE] = stored
        return rotate(q, op.rope, batch.positions)

    def _attend(self, op: Attend, q: Floats, batch: Batch) -> Floats:
        """Each run over the pages its block table names. [tokens, heads * head_dim]"""
        out = np.empty_like(q)
        for run, slot in enumerate(batch.slots):
            rows, length = slice(batch.starts[run], batch.starts[run + 1]), int(batch.kv_lens[run])
            table = batch.tables[slot, : -(-length // PAGE)]
            keys, values = (self._read(op.layer, part, table)[:length] for part in (0, 1))
            dtype = self.program.kv.dtype
            out[rows] = attention(q[rows], keys, values, batch.positions[rows], op.scale, dtype)
        return out.reshape(len(q), -1)

    def _read(self, layer: int, part: int, table: Ints) -> Floats:
        """Keys (part 0) or values (1) of pages, in order. [tokens, kv_heads, head_dim]"""
        held = self._held[layer, part, table]
        held = held.reshape(-1, *held.shape[2:])
        return held if held.dtype == np.float32 else from_bfloat16(held.astype(np.uint16))

    @property
    def _held(self) -> Pages:
        """The pages. [layers, 2, pages, PAGE, kv_heads, head_dim]"""
        assert self._pages is not None, "allocate comes before run"
        return self._pages


def _weights(op: Op) -> tuple[Weight, ...]:
    """The matrices of one operation."""
    match op:
        case Embed():
            return (op.table,)
        case Qkv():
            return (op.q, op.k, op.v)
        case Proj() | Head():
            return (op.weight,)
        case FfnIn():
            return (op.gate, op.up)
        case _:
            return ()
