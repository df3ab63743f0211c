"""The definition of correct: a program walked op by op over plain numpy pages, with the functions of equations.py.

Results depend on the order in which the BLAS adds: equal for another batching only to float tolerance, unlike the
native executor. Fresh pages hold NaN: who reads a place that was never written gets a bad row. Knows no model by name,
and no request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from octavo.core.layout import PAGE
from octavo.kernels.weight import Weight, from_bfloat16, to_bfloat16
from octavo.program.batch import Batch, Drawn, Floats, Ints
from octavo.program.equations import (
    activated,
    attention,
    capped,
    chosen,
    convolved,
    form,
    linear,
    norm_heads,
    normed,
    rotate,
    sigmoid,
    swiglu_oai,
)
from octavo.program.ops import (
    Attend,
    Conv,
    Embed,
    Expert,
    FfnIn,
    Head,
    HeadNorm,
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
from octavo.program.sampling import draw

Pages = npt.NDArray[np.float32] | npt.NDArray[np.uint16]


def _empty() -> Floats:
    return np.empty((0, 0), np.float32)


class Pairs:
    """(token, expert) pairs by expert, then by token."""

    def __init__(self, experts: Ints, shares: Floats) -> None:
        """experts, shares  # [tokens, top]"""
        order = np.argsort(experts.reshape(-1), kind="stable")
        self._experts = experts.reshape(-1)[order]
        self.tokens = order // max(experts.shape[1], 1)
        self.shares = shares.reshape(-1)[order]

    def rows(self, expert: int) -> slice:
        """Which pairs are those of one expert."""
        first, last = np.searchsorted(self._experts, [expert, expert + 1])
        return slice(int(first), int(last))


@dataclass(slots=True, eq=False)
class Registers:
    """What operations read and write, see ops.py."""

    x: Floats = field(default_factory=_empty)
    q: Floats = field(default_factory=_empty)
    h: list[Floats] = field(default_factory=lambda: [_empty(), _empty()])
    pairs: Pairs = field(default_factory=lambda: Pairs(np.empty((0, 0), np.int32), _empty()))
    gate: Floats = field(default_factory=_empty)


class Reference:
    """Runs a program in numpy. Weights are dequantized once, when made; implements `Executor`.

    dense: the matrices by the id of their Weight, from who has them already and may change them between operations.
    """

    def __init__(self, program: Program, dense: Mapping[int, Floats] | None = None) -> None:
        self.program = program
        held = {id(weight): weight for op in program.ops for weight in matrices(op)}
        self._dense = {key: weight.dequantize() for key, weight in held.items()} if dense is None else dense
        self._pages: Pages | None = None

    def allocate(self, pages: int) -> None:
        """Take memory for this many pages, as declared by the program's KvLayout."""
        kv = self.program.kv
        shape = (kv.layers, 2, pages, PAGE, kv.kv_heads, kv.head_dim)
        if kv.dtype == "bfloat16":
            self._pages = to_bfloat16(np.full(1, np.nan, np.float32)).repeat(int(np.prod(shape))).reshape(shape)
        else:
            self._pages = np.full(shape, np.nan, np.float32)

    def copy(self, pages: Sequence[tuple[int, int]]) -> None:
        """Copy the content of pages (from, to); see Executor."""
        sources, copies = np.array(pages).T
        self._held[:, :, copies] = self._held[:, :, sources]

    def run(self, batch: Batch) -> Drawn:
        """One step; see Executor."""
        logits, given = self.logits(batch), batch.head.given
        drawn = draw(logits, batch.head)
        return replace(drawn, logits=logits[given >= 0]) if len(given) else drawn

    def logits(self, batch: Batch) -> Floats:
        """One step, up to the raw logits of the head's rows. [H, vocab]"""
        assert isinstance(self.program.ops[-1], Head), "the program gives vectors"
        return self._walk(batch)

    def vectors(self, batch: Batch) -> Floats:
        """One step of an encoder, up to the vectors of the head's rows. [H, width]"""
        assert isinstance(self.program.ops[-1], Hidden), "the program gives logits"
        return self._walk(batch)

    def _walk(self, batch: Batch) -> Floats:
        """All ops in order; what the last one gives."""
        at = Registers()
        for op in self.program.ops:
            self.step(op, at, batch)
        return at.x

    def step(self, op: Op, at: Registers, batch: Batch) -> None:
        """One operation. Head leaves the logits in x [H, vocab], Hidden the vectors [H, width]."""
        x, h = at.x, at.h
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported by `Drawn.bad`
            match op:
                case Embed():
                    x = self._dense[id(op.table)][batch.ids] * np.float32(op.scale)
                    if op.types is not None:
                        x = x + op.types[np.zeros_like(batch.ids) if batch.types is None else batch.types]
                    at.x = x if op.positions is None else x + op.positions[batch.positions]
                case Renorm():
                    at.x = normed(x, op.norm)
                case Norm():
                    h[op.out] = form(normed(x, op.norm), op.act)
                case Qkv():
                    at.q = self._qkv(op, h[op.source], batch)
                case Latent():
                    self._latent(op, h, batch)
                case LatentQuery():
                    at.q = self._latent_query(op, h[op.source], batch)
                case PerHead():
                    h[op.out] = form(self._per_head(op.weight, h[op.source]), op.act_out)
                case Attend():
                    h[op.out] = form(self._attend(op, at.q, batch), op.act)
                case Conv():
                    h[op.out] = form(self._conv(op, h[op.source], batch), op.act_out)
                case Proj():
                    added = linear(h[op.source], self._dense[id(op.weight)], op.bias)
                    scale = np.float32(op.scale) * at.gate if op.gated else np.float32(op.scale)
                    at.x = x + scale * (added if op.post is None else normed(added, op.post))
                case FfnIn():
                    h[op.out] = form(self._ffn_in(op, op.activation, h[op.source]), op.act_out)
                case Route():
                    at.pairs = Pairs(*chosen(linear(h[op.source], self._dense[id(op.weight)], op.bias), op))
                    if op.gate is not None:
                        at.gate = sigmoid(linear(h[op.source], self._dense[id(op.gate)], None))
                case MoeIn():
                    h[op.out] = form(self._moe_in(op, h[op.source], at.pairs), op.act_out)
                case MoeOut():
                    added = self._moe_out(op, h[op.source], at.pairs)
                    at.x = x + np.float32(op.scale) * (added if op.post is None else normed(added, op.post))
                case Head():
                    at.x = self._head(op, x[batch.head.rows])
                case Hidden():
                    at.x = normed(x[batch.head.rows], op.norm)

    def workspace_bytes(self) -> int:
        """Bytes of the dequantized weights, which stand beside the packed ones."""
        return sum(matrix.nbytes for matrix in self._dense.values())

    def close(self) -> None:
        """Release the pages."""
        self._pages = None

    def _qkv(self, op: Qkv, h: Floats, batch: Batch) -> Floats:
        """Write keys and values to their pages; give the rotated queries. [tokens, heads, places]"""

        def heads(weight: Weight, bias: Floats | None, norm: HeadNorm | None) -> Floats:
            product = linear(h, self._dense[id(weight)], bias)
            product = np.clip(product, -op.clip, op.clip) if op.clip else product
            split = product.reshape(len(h), -1, self.program.kv.head_dim)
            return norm_heads(split, norm, op.head_dim or self.program.kv.head_dim)

        k = rotate(heads(op.k, op.k_bias, op.k_norm), op.rope, batch.positions)
        self._keep(op, k, heads(op.v, op.v_bias, None), batch)
        return rotate(heads(op.q, op.q_bias, op.q_norm), op.rope, batch.positions)

    def _keep(self, op: Qkv | Latent, k: Floats, v: Floats, batch: Batch) -> None:
        """Write keys and values to their pages. k, v  # [tokens, kv_heads, places]"""
        slots = np.repeat(batch.slots, np.diff(batch.starts))
        page = self._tables(op.group, batch)[slots, batch.positions // PAGE]
        for part, rows in enumerate((k, v)):
            self._held[op.layer, part, page, batch.positions % PAGE] = self._stored(rows)

    def _stored(self, rows: Floats) -> Pages:
        """Numbers as the pages hold them."""
        return rows if self._held.dtype == np.float32 else to_bfloat16(rows)

    def _conv(self, op: Conv, h: Floats, batch: Batch) -> Floats:
        """Write u to its pages, then convolve each run with what is there. [tokens, width]"""
        b, c, z = (
            linear(h, self._dense[id(weight)], bias)
            for weight, bias in ((op.b, op.b_bias), (op.c, op.c_bias), (op.z, op.z_bias))
        )
        kv, tables = self.program.kv, self._tables(op.group, batch)
        width, seats = op.b.rows, kv.seats(op.b.rows)
        slots = np.repeat(batch.slots, np.diff(batch.starts))
        u = np.pad(b * z, ((0, 0), (0, seats * kv.numbers - width)))
        split = self._stored(u).reshape(len(u), seats, 2, kv.kv_heads, kv.head_dim)
        held = self._held[op.layer : op.layer + seats]
        held[:, :, tables[slots, batch.positions // PAGE], batch.positions % PAGE] = np.moveaxis(split, 0, 2)
        out = np.empty_like(c)
        for run, slot in enumerate(batch.slots):
            rows = slice(batch.starts[run], batch.starts[run + 1])
            seen = np.arange(batch.positions[rows.start] - len(op.taps) + 1, batch.kv_lens[run])
            found = np.moveaxis(held[:, :, tables[slot, np.maximum(seen, 0) // PAGE], seen % PAGE], 2, 0)
            read = self._numbers(found.reshape(len(seen), -1)[:, :width])
            out[rows] = convolved(np.where(seen[:, None] < 0, np.float32(0), read), op)
        return c * out

    def _latent(self, op: Latent, h: list[Floats], batch: Batch) -> None:
        """Write latent keys and values to their pages, and the narrow query, where there is one, to its h."""
        read = h[op.source]
        z = linear(read, self._dense[id(op.weight)], op.bias)[:, None]  # [tokens, 1, places]
        first = normed(z[:, :, : op.rank], op.norm)
        rest = rotate(z[:, :, op.rank :], op.rope, batch.positions)
        key, value = np.concatenate([first, rest], axis=2), np.concatenate([first, np.zeros_like(rest)], axis=2)
        self._keep(op, key, value, batch)
        if op.narrow is not None:
            narrow = normed(linear(read, self._dense[id(op.narrow)], op.narrow_bias), op.narrow_norm)
            h[op.out] = form(narrow, op.act_out)

    def _latent_query(self, op: LatentQuery, h: Floats, batch: Batch) -> Floats:
        """Each head's query, taken to the latent keys. [tokens, heads, places]"""
        z = linear(h, self._dense[id(op.weight)], None).reshape(len(h), self.program.heads, -1)
        first = z[:, :, : op.up.cols].swapaxes(0, 1).reshape(-1, op.up.cols)
        lifted = self._per_head(op.up, form(first, op.act_up)).reshape(len(h), -1, op.rank)
        return np.concatenate([lifted, rotate(z[:, :, op.up.cols :], op.rope, batch.positions)], axis=2)

    def _per_head(self, weight: Weight, h: Floats) -> Floats:
        """Every head's rows through its matrix. h  # [heads * tokens, inputs] -> [tokens, heads * outputs]"""
        matrix = self._dense[id(weight)].reshape(self.program.heads, -1, weight.cols)
        rows = h.reshape(self.program.heads, -1, weight.cols)
        product: Floats = (rows @ matrix.swapaxes(1, 2)).swapaxes(0, 1)
        return product.reshape(len(product), -1)

    def _ffn_in(self, op: FfnIn | Expert, activation: str, h: Floats, limit: float = 0.0) -> Floats:
        """The hidden layer of a feed-forward. [tokens, inner]"""
        up = linear(h, self._dense[id(op.up)], op.up_bias)
        if op.gate is None:
            return activated(up, activation)
        gate = linear(h, self._dense[id(op.gate)], op.gate_bias)
        return swiglu_oai(gate, up, limit) if activation == "swiglu_oai" else activated(gate, activation) * up

    def _moe_in(self, op: MoeIn, h: Floats, pairs: Pairs) -> Floats:
        """The hidden layer of every expert for its tokens. [tokens * top, inner]"""
        parts = [
            self._ffn_in(expert, op.activation, h[pairs.tokens[pairs.rows(number)]], op.limit)
            for number, expert in enumerate(op.experts)
        ]
        return np.concatenate(parts)

    def _moe_out(self, op: MoeOut, h: Floats, pairs: Pairs) -> Floats:
        """What the experts of each token give, by their shares. [tokens, width]"""
        out = np.zeros((len(h) // op.top, op.weights[0].rows), np.float32)
        for number, (weight, bias) in enumerate(zip(op.weights, op.biases, strict=True)):
            rows = pairs.rows(number)
            out[pairs.tokens[rows]] += pairs.shares[rows, None] * linear(h[rows], self._dense[id(weight)], bias)
        return out

    def _head(self, op: Head, x: Floats) -> Floats:
        """Logits of some rows. x  # [rows, width] -> [rows, vocab]"""
        product = linear(form(normed(x, op.norm), op.act), self._dense[id(op.weight)], op.bias)
        return capped(np.float32(op.scale) * product, op.soft_cap)

    def _attend(self, op: Attend, q: Floats, batch: Batch) -> Floats:
        """Each run over the pages its block table names. [tokens, heads * D], or apart [heads * tokens, D]"""
        out = np.empty_like(q)
        tables = self._tables(op.group, batch)
        for run, slot in enumerate(batch.slots):
            rows, length = slice(batch.starts[run], batch.starts[run + 1]), int(batch.kv_lens[run])
            table = tables[slot, : -(-length // PAGE)]
            keys, values = (self._read(op.layer, part, table)[:length] for part in (0, 1))
            out[rows] = attention(q[rows], keys, values, batch.positions[rows], op, self.program.kv.dtype)
        out = out[:, :, : op.head_dim or q.shape[2]]
        return out.swapaxes(0, 1).reshape(-1, out.shape[2]) if op.apart else out.reshape(len(q), -1)

    def _read(self, layer: int, part: int, table: Ints) -> Floats:
        """Keys (part 0) or values (1) of pages, in order. [tokens, kv_heads, head_dim]"""
        held = self._held[layer, part, table]
        return self._numbers(held.reshape(-1, *held.shape[2:]))

    def _numbers(self, held: Pages) -> Floats:
        """What the pages hold, as float32."""
        return (
            held.astype(np.float32, copy=False) if held.dtype == np.float32 else from_bfloat16(held.astype(np.uint16))
        )

    def _tables(self, group: int, batch: Batch) -> Ints:
        """The block tables of one cache group. [slots, pages per sequence]"""
        return batch.tables.reshape(len(batch.tables), self.program.kv.groups, -1)[:, group]

    @property
    def _held(self) -> Pages:
        """The pages. [layers, 2, pages, PAGE, kv_heads, head_dim]"""
        assert self._pages is not None, "allocate comes before run"
        return self._pages


def matrices(op: Op) -> tuple[Weight, ...]:
    """The matrices of one operation."""
    match op:
        case Embed():
            return (op.table,)
        case Qkv():
            return (op.q, op.k, op.v)
        case Latent():
            return (op.weight,) if op.narrow is None else (op.weight, op.narrow)
        case LatentQuery():
            return (op.weight, op.up)
        case Conv():
            return (op.b, op.c, op.z)
        case Proj() | Head() | PerHead():
            return (op.weight,)
        case FfnIn():
            return (op.up,) if op.gate is None else (op.gate, op.up)
        case Route():
            return (op.weight,) if op.gate is None else (op.weight, op.gate)
        case MoeIn():
            return tuple(weight for expert in op.experts for weight in (expert.gate, expert.up) if weight is not None)
        case MoeOut():
            return op.weights
        case _:
            return ()
