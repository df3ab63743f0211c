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
from octavo.kernels.weight import Weight, read_as
from octavo.program.batch import Batch, Drawn
from octavo.program.ops import Act, Attend, Embed, FfnIn, Head, Norm, Op, Program, Proj, Qkv

HEAD_ROWS = 64  # head rows projected together


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
            return native.OpArgs("norm", act=_act(op.act), eps=op.eps, vecs=(op.weight,))
        case Qkv():
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
            return native.OpArgs(
                "ffn_in",
                act=_act(op.act),
                act_out=_act(op.act_out),
                weights=(op.gate, op.up),
                vecs=(op.gate_bias, op.up_bias),
            )
        case Head():
            return native.OpArgs("head", act=_act(op.act), eps=op.eps, weights=(op.weight,), vecs=(op.norm,))


def check(program: Program) -> None:
    """Refuse what the kernels do not take. Raises ModelError."""
    if program.kv.head_dim % 32:
        raise ModelError(f"head_dim {program.kv.head_dim}: the cpu executor takes multiples of 32")
    written: Act | None = None  # the form of what the next projection reads
    for op in program.ops:
        match op:
            case Norm() | Attend():
                written = op.act
            case Qkv():
                _check_reads(op, (op.q, op.k, op.v), written)
            case Proj():
                _check_reads(op, (op.weight,), written)
            case FfnIn():
                _check_reads(op, (op.gate, op.up), written)
                written = op.act_out
            case Head():
                _check_reads(op, (op.weight,), op.act)


def _check_reads(op: Qkv | Proj | FfnIn | Head, weights: tuple[Weight, ...], written: Act | None) -> None:
    if op.act != written:
        raise ModelError(f"{type(op).__name__}: reads its input as {op.act}, but it was written as {written}")
    for weight in weights:
        _check_act(type(op).__name__, weight, op.act)


def _check_act(name: str, weight: Weight, act: Act) -> None:
    if (act.bits, act.group) != read_as(weight.layout, weight.group) or act.group % 32:
        raise ModelError(
            f"{name}: {weight.layout.name} weights in groups of {weight.group} cannot read inputs of {act.bits} bits "
            f"in groups of {act.group}; all weights of one operation must have the same kind of layout"
        )


def _act(act: Act) -> tuple[int, int]:
    return act.bits, act.group
