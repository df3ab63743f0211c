"""The native executor: a Program handed once to the library in csrc, then one call a step.

Knows the ops and how the library wants them; the arithmetic is in csrc.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.cache.store import KvStore
from octavo.core.errors import ModelError
from octavo.core.layout import KvLayout
from octavo.kernels import native
from octavo.kernels.weight import Layout, Weight
from octavo.program.batch import Batch, Drawn
from octavo.program.ops import Act, Attend, Embed, FfnIn, Head, Hidden, Norm, Op, Program, Proj, Qkv, Renorm

HEAD_ROWS = 64  # head rows projected together
ACT_BITS = {Layout.F32: 32, Layout.BF16: 16, Layout.W8: 8, Layout.W4: 8, Layout.W4M: 8}


class Cpu:
    """Runs a program on `threads` threads. `max_tokens` bounds the rows of one step."""

    def __init__(self, program: Program, threads: int, *, max_tokens: int = 512, isa: str | None = None) -> None:
        """Raises ModelError for shapes the kernels do not take, MemoryError without working memory."""
        check(program)
        self.isa = isa or native.isa()
        self.threads = threads
        self.max_tokens = max_tokens
        self.store: KvStore | None = None
        self._kv = program.kv
        shape = config(
            program.kv,
            width=program.width,
            heads=program.heads,
            vocab=program.vocab,
            max_len=program.max_len,
            max_tokens=max_tokens,
            threads=threads,
        )
        self._plan = native.Plan(shape, [native_op(op) for op in program.ops], self.isa)

    def allocate(self, pages: int) -> None:
        """Take memory for this many pages; it is touched from now on, see KvStore. Raises MemoryError."""
        self.store = KvStore(self._kv, pages)
        self._plan.bind_pages(self.store.data, self.store.layer_stride)

    def run(self, batch: Batch) -> Drawn:
        """Compute one step: write keys and values to their pages, draw from the rows of `batch.head`.

        Raises MemoryError where the pages turn out to have less memory than the system promised.
        """
        assert self.store is not None, "allocate comes before run"
        self.store.check()
        top = batch.head.top
        return Drawn(**self._plan.run(self._arrays(batch), int(top.max(initial=0)), logits=False))

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """As `run`, but give the raw logits of the head's rows. [H, vocab]"""
        logits: npt.NDArray[np.float32] = self._plan.run(self._arrays(batch), 0, logits=True)["logits"]
        return logits

    def times(self) -> native.Times:
        """Where time went since this was last asked, op by op in the program's order."""
        return self._plan.times()

    def workspace_bytes(self) -> int:
        """Bytes of working memory beside weights and pages."""
        return self._plan.workspace_bytes

    def close(self) -> None:
        """Stop the threads. May be called twice."""
        self._plan.close()
        if self.store is not None:
            self.store.close()

    def _arrays(self, batch: Batch) -> dict[str, npt.NDArray[np.generic]]:
        assert len(batch.ids) <= self.max_tokens, f"{len(batch.ids)} tokens in a step made for {self.max_tokens}"
        head = batch.head
        return {
            "ids": batch.ids,
            "positions": batch.positions,
            "starts": batch.starts,
            "slots": batch.slots,
            "tables": batch.tables,
            **{name: getattr(head, name) for name in head.__slots__},
        }


def config(
    kv: KvLayout, *, width: int, heads: int, vocab: int, max_len: int, max_tokens: int, threads: int
) -> native.Config:
    """The shapes the library needs: enough for native.workspace_bytes, before there is a program."""
    return native.Config(
        width=width,
        heads=heads,
        kv_heads=kv.kv_heads,
        head_dim=kv.head_dim,
        vocab=vocab,
        kv_float32=kv.dtype == "float32",
        max_tokens=max_tokens,
        max_len=max_len,
        head_rows=HEAD_ROWS,
        threads=threads,
    )


def native_op(op: Op) -> native.OpArgs:
    """One op in the library's terms."""
    match op:
        case Embed():
            return native.OpArgs("embed", scale=op.scale, weights=(op.table,))
        case Norm():
            return native.OpArgs("norm", act=_act(op.act), eps=op.norm.eps, vecs=(op.norm.weight,))
        case Qkv():
            assert op.rope is not None, "checked"
            return native.OpArgs(
                "qkv",
                layer=op.layer,
                act=_act(op.act),
                weights=(op.q, op.k, op.v),
                vecs=(op.q_bias, op.k_bias, op.v_bias),
                rope=(op.rope.cos, op.rope.sin),
            )
        case Attend():
            return native.OpArgs("attend", layer=op.layer, act=_act(op.act), scale=op.scale)
        case Proj():
            return native.OpArgs("proj", act=_act(op.act), weights=(op.weight,), vecs=(op.bias,))
        case FfnIn():
            assert op.gate is not None, "checked"
            return native.OpArgs(
                "ffn_in",
                act=_act(op.act),
                act_out=_act(op.act_out),
                weights=(op.gate, op.up),
                vecs=(op.gate_bias, op.up_bias),
            )
        case Head():
            return native.OpArgs(
                "head", act=_act(op.act), eps=op.norm.eps, weights=(op.weight,), vecs=(op.norm.weight,)
            )
        case Renorm() | Hidden():
            raise ModelError(f"{type(op).__name__}: not taken by the cpu executor")


def check(program: Program) -> None:
    """Refuse what the kernels do not take. Raises ModelError."""
    if program.kv.head_dim % 32:
        raise ModelError(f"head_dim {program.kv.head_dim}: the cpu executor takes multiples of 32")
    written: list[Act | None] = [None, None]  # the forms of what stands in h[0] and h[1]
    for op in program.ops:
        lacking = _lacking(op, program.kv.head_dim)
        if lacking:
            raise ModelError(f"{type(op).__name__}: the cpu executor has no {lacking}; the reference executor has")
        match op:
            case Norm() | Attend():
                written[op.out] = op.act
            case Qkv():
                _check_reads(op, (op.q, op.k, op.v), written[op.source])
            case Proj():
                _check_reads(op, (op.weight,), written[op.source])
            case FfnIn():
                _check_reads(op, (op.up,) if op.gate is None else (op.gate, op.up), written[op.source])
                written[op.out] = op.act_out
            case Head():
                _check_reads(op, (op.weight,), op.act)


def _lacking(op: Op, places: int) -> str:
    """What of an op the kernels cannot do, or nothing."""
    norm = op.norm if isinstance(op, Norm | Head) else None
    if norm and (norm.kind != "rms" or norm.weight is None):
        return f"norm of kind {norm.kind}"
    match op:
        case Embed(positions=positions) if positions is not None:
            return "learned positions"
        case Renorm():
            return "norm of the residual stream"
        case Hidden():
            return "end without a head"
        case Norm(out=1):
            return "parallel norm"
        case Qkv() if op.rope is None or op.q_norm or op.k_norm or op.clip:
            return "projection without rotation, with clamping or with norms of heads"
        case Attend() if op.window or op.soft_cap or op.slopes is not None or op.sinks is not None or not op.causal:
            return "window, cap, slopes, sinks or sight ahead in attention"
        case Attend() | Qkv() if op.head_dim not in (0, places):
            return f"heads of {op.head_dim}"
        case Proj() if op.scale != 1 or op.post:
            return "scale or norm of what is added"
        case FfnIn() if op.gate is None or op.activation != "silu" or op.source == op.out:
            return f"feed-forward of {op.activation} with this gating"
        case Head() if op.bias is not None or op.scale != 1 or op.soft_cap:
            return "bias, scale or cap of logits"
    return ""


def _check_reads(op: Qkv | Proj | FfnIn | Head, weights: tuple[Weight, ...], written: Act | None) -> None:
    if op.act != written:
        raise ModelError(f"{type(op).__name__}: reads its input as {op.act}, but it was written as {written}")
    for weight in weights:
        _check_act(type(op).__name__, weight, op.act)


def _check_act(name: str, weight: Weight, act: Act) -> None:
    fits = act.bits == ACT_BITS[weight.layout]
    if act.bits == 8:
        fits = fits and act.group == weight.group and act.group > 0 and act.group % 32 == 0
    if not fits:
        raise ModelError(
            f"{name}: {weight.layout.name} weights in groups of {weight.group} cannot read inputs of {act.bits} bits "
            f"in groups of {act.group}; all weights of one operation must have the same kind of layout"
        )


def _act(act: Act) -> tuple[int, int]:
    return act.bits, act.group
