"""The native executor: a Program handed once to the library in csrc, then one call a step.

Knows the ops and how the library wants them; the arithmetic is in csrc.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from octavo.cache.store import KvStore
from octavo.core.layout import KvLayout
from octavo.kernels import native
from octavo.kernels.interface import Config
from octavo.kernels.weight import PANEL
from octavo.program.batch import Batch, Drawn
from octavo.program.check import check
from octavo.program.ops import (
    Act,
    Attend,
    Conv,
    Embed,
    FfnIn,
    Floats,
    Head,
    HeadNorm,
    Hidden,
    Latent,
    LatentQuery,
    MoeIn,
    MoeOut,
    Norm,
    Norming,
    Op,
    PerHead,
    Program,
    Proj,
    Qkv,
    Renorm,
    Rope,
    Route,
)

HEAD_ROWS = 64  # head rows projected together
# of a head: not handed over where empty
OPTIONAL = ("steps", "extras", "dry_starts", "dry_ids", "dry_values", "named_starts", "named", "given")


class Cpu:
    """Runs a program on `threads` threads. `max_tokens` bounds the rows of one step."""

    def __init__(self, program: Program, threads: int, *, max_tokens: int = 512, isa: str | None = None) -> None:
        """Raises ModelError for shapes the kernels do not take, MemoryError without working memory."""
        check(program)
        self.isa = isa or native.isa()
        self.threads = threads
        self.max_tokens = max_tokens
        self.draws = isinstance(program.ops[-1], Head)  # or gives vectors
        self.store: KvStore | None = None
        self._kv = program.kv
        shape = config(
            program.kv,
            width=program.width,
            heads=program.heads,
            vocab=program.vocab if self.draws else 0,
            max_len=program.max_len,
            max_tokens=max_tokens,
            threads=threads,
        )
        self._plan = native.Plan(shape, [native_op(op, program.kv.head_dim) for op in program.ops], self.isa)

    def allocate(self, pages: int) -> None:
        """Take memory for this many pages; it is touched from now on, see KvStore. Raises MemoryError."""
        self.store = KvStore(self._kv, pages)
        self._plan.bind_pages(self.store.data, self.store.layer_stride)

    def copy(self, pages: Sequence[tuple[int, int]]) -> None:
        """Copy the content of pages (from, to), see KvStore."""
        assert self.store is not None, "allocate comes before copy"
        self.store.copy(pages)

    def run(self, batch: Batch) -> Drawn:
        """Compute one step: write keys and values to their pages, draw from the rows of `batch.head`.

        Raises MemoryError where the pages turn out to have less memory than the system promised.
        """
        assert self.store is not None, "allocate comes before run"
        assert self.draws, "a program that ends with vectors draws nothing"
        self.store.check()
        top = batch.head.top
        return Drawn(**self._plan.run(self._arrays(batch), int(top.max(initial=0))))

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """As `run`, but give the raw logits of the head's rows. [H, vocab]"""
        given = np.arange(len(batch.head.rows), dtype=np.int32)
        logits: npt.NDArray[np.float32] = self._plan.run(self._arrays(batch) | {"given": given}, 0)["logits"]
        return logits

    def vectors(self, batch: Batch) -> npt.NDArray[np.float32]:
        """As `run`, of a program that ends with Hidden: the vectors of the head's rows. [H, width]"""
        assert self.store is not None, "allocate comes before run"
        self.store.check()
        return self._plan.vectors(self._arrays(batch))

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
            **({} if batch.types is None else {"types": batch.types}),
            **{
                name: getattr(head, name) for name in head.__slots__ if len(getattr(head, name)) or name not in OPTIONAL
            },
        }


def config(kv: KvLayout, *, width: int, heads: int, vocab: int, max_len: int, max_tokens: int, threads: int) -> Config:
    """The shapes the library needs: enough for kernels/workspace.py, before there is a program.

    vocab: tokens that are drawn among; 0: none are drawn.
    """
    return Config(
        width=width,
        heads=heads,
        kv_heads=kv.kv_heads,
        head_dim=kv.head_dim,
        vocab=vocab,
        kv_float32=kv.dtype == "float32",
        groups=kv.groups,
        max_tokens=max_tokens,
        max_len=max_len,
        head_rows=HEAD_ROWS,
        threads=threads,
    )


def native_op(op: Op, places: int) -> native.OpArgs:
    """One op in the library's terms. places: those of a head."""
    match op:
        case Embed():
            return native.OpArgs("embed", scale=op.scale, weights=(op.table,), positions=op.positions, types=op.types)
        case Renorm():
            return native.OpArgs("renorm", norm=_norm(op.norm))
        case Norm():
            return native.OpArgs("norm", act=_act(op.act), out=op.out, norm=_norm(op.norm))
        case Qkv():
            return _qkv(op, places)
        case Latent():
            return _latent(op)
        case LatentQuery():
            return _latent_query(op)
        case Attend():
            return _attend(op, places)
        case PerHead():
            return native.OpArgs(
                "per_head",
                act=_act(op.act),
                act_out=_act(op.act_out),
                source=op.source,
                out=op.out,
                weights=(op.weight,),
            )
        case Conv():
            return _conv(op)
        case Proj():
            return _proj(op)
        case FfnIn():
            return _ffn_in(op)
        case Route():
            return _route(op)
        case MoeIn():
            return _moe_in(op)
        case MoeOut():
            return _moe_out(op)
        case Head():
            return _head(op)
        case Hidden():
            return native.OpArgs("hidden", norm=_norm(op.norm))


def _qkv(op: Qkv, places: int) -> native.OpArgs:
    return native.OpArgs(
        "qkv",
        layer=op.layer,
        group=op.group,
        act=_act(op.act),
        source=op.source,
        clip=op.clip,
        weights=(op.q, op.k, op.v),
        vecs=(op.q_bias, op.k_bias, op.v_bias),
        head_norms=tuple(_head_norm(norm, places) for norm in (op.q_norm, op.k_norm)),
        head_dim=op.head_dim or places,
        rope=_rope(op.rope),
    )


def _latent(op: Latent) -> native.OpArgs:
    return native.OpArgs(
        "latent",
        layer=op.layer,
        group=op.group,
        act=_act(op.act),
        act_out=_act(op.act_out),
        source=op.source,
        out=op.out,
        weights=(op.weight,) if op.narrow is None else (op.weight, op.narrow),
        vecs=(op.bias, op.narrow_bias),
        norm=_norm(op.norm),
        head_norms=(native.HeadNormArgs(_norm(op.narrow_norm)),),
        head_dim=op.rank,
        rope=_rope(op.rope),
    )


def _latent_query(op: LatentQuery) -> native.OpArgs:
    return native.OpArgs(
        "latent_query",
        act=_act(op.act),
        act_out=_act(op.act_up),
        source=op.source,
        weights=(op.weight, op.up),
        head_dim=op.rank,
        rope=_rope(op.rope),
    )


def _conv(op: Conv) -> native.OpArgs:
    return native.OpArgs(
        "conv",
        layer=op.layer,
        group=op.group,
        act=_act(op.act),
        act_out=_act(op.act_out),
        source=op.source,
        out=op.out,
        weights=(op.b, op.c, op.z),
        vecs=(op.b_bias, op.c_bias, op.z_bias),
        window=len(op.taps),
        taps=_whole_panels(op.taps),
        tap_bias=None if op.bias is None else _whole_panels(op.bias),
    )


def _whole_panels(numbers: Floats) -> Floats:
    """Numbers with zeros behind each row, which the kernel reads in whole panels."""
    behind = -numbers.shape[-1] % PANEL
    return np.ascontiguousarray(np.pad(numbers, [*[(0, 0)] * (numbers.ndim - 1), (0, behind)]))


def _rope(rope: Rope | None) -> tuple[Floats, Floats] | None:
    return None if rope is None else (rope.cos, rope.sin)


def _attend(op: Attend, places: int) -> native.OpArgs:
    return native.OpArgs(
        "attend",
        layer=op.layer,
        group=op.group,
        act=_act(op.act),
        out=op.out,
        scale=op.scale,
        soft_cap=op.soft_cap,
        head_dim=op.head_dim or places,
        window=op.window,
        causal=op.causal,
        slopes=op.slopes,
        sinks=op.sinks,
        apart=op.apart,
    )


def _proj(op: Proj) -> native.OpArgs:
    return native.OpArgs(
        "proj",
        act=_act(op.act),
        source=op.source,
        scale=op.scale,
        weights=(op.weight,),
        vecs=(op.bias,),
        norm=_norm(op.post),
        gated=op.gated,
    )


def _ffn_in(op: FfnIn) -> native.OpArgs:
    gated = op.gate is not None
    return native.OpArgs(
        "ffn_in",
        act=_act(op.act),
        act_out=_act(op.act_out),
        source=op.source,
        out=op.out,
        weights=(op.up,) if op.gate is None else (op.gate, op.up),
        vecs=(op.gate_bias, op.up_bias) if gated else (op.up_bias,),
        activation=op.activation,
    )


def _head(op: Head) -> native.OpArgs:
    return native.OpArgs(
        "head",
        act=_act(op.act),
        scale=op.scale,
        soft_cap=op.soft_cap,
        weights=(op.weight,),
        vecs=(op.bias,),
        norm=_norm(op.norm),
    )


def _route(op: Route) -> native.OpArgs:
    routing = native.RoutingArgs(
        op.scoring, op.top, op.groups, op.top_groups, op.group_top, op.renormalise, op.correction
    )
    return native.OpArgs(
        "route",
        source=op.source,
        scale=op.scale,
        weights=(op.weight,) if op.gate is None else (op.weight, op.gate),
        vecs=(op.bias,),
        routing=routing,
        expert_count=op.weight.rows,
    )


def _moe_in(op: MoeIn) -> native.OpArgs:
    experts = (
        native.ExpertArgs((each.up,), (each.up_bias,))
        if each.gate is None
        else native.ExpertArgs((each.gate, each.up), (each.gate_bias, each.up_bias))
        for each in op.experts
    )
    return native.OpArgs(
        "moe_in",
        act=_act(op.act),
        act_out=_act(op.act_out),
        source=op.source,
        out=op.out,
        activation=op.activation,
        experts=tuple(experts),
        expert_count=len(op.experts),
        top=op.top,
        limit=op.limit,
    )


def _moe_out(op: MoeOut) -> native.OpArgs:
    experts = (native.ExpertArgs((weight,), (bias,)) for weight, bias in zip(op.weights, op.biases, strict=True))
    return native.OpArgs(
        "moe_out",
        act=_act(op.act),
        source=op.source,
        scale=op.scale,
        norm=_norm(op.post),
        experts=tuple(experts),
        expert_count=len(op.weights),
        top=op.top,
    )


def _norm(norm: Norming | None) -> native.NormArgs:
    return native.NormArgs() if norm is None else native.NormArgs(norm.kind, norm.eps, norm.weight, norm.bias)


def _head_norm(norm: HeadNorm | None, places: int) -> native.HeadNormArgs | None:
    if norm is None or norm.norm.kind == "none":
        return None
    apart = norm.norm.weight is not None and norm.norm.weight.ndim == 2
    return native.HeadNormArgs(_norm(norm.norm), norm.whole, places if apart else 0)


def _act(act: Act) -> native.ActArgs:
    return native.ActArgs(act.bits, act.group, np.frombuffer(act.order, np.int32) if act.order else None)
