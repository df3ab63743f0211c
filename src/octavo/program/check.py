"""What the kernels take: a program is checked before they see it, and refused by what does not fit.

Inputs must have been written in the form in which they are read, and vectors must be as long as the kernels read them:
they do not look themselves. Knows the ops, and nothing of the library.
"""

from __future__ import annotations

from octavo.core.errors import ModelError
from octavo.kernels.weight import Weight, read_as
from octavo.program.ops import (
    ACTIVATIONS,
    NORMS,
    Act,
    Attend,
    Embed,
    FfnIn,
    Floats,
    Head,
    HeadNorm,
    Hidden,
    Norm,
    Norming,
    Op,
    Program,
    Proj,
    Qkv,
    Renorm,
)

Written = tuple[Act, int] | None  # the form of an h, and its inputs


def check(program: Program) -> None:
    """Refuse what the kernels do not take. Raises ModelError."""
    places = program.kv.head_dim
    if places % 32:
        raise ModelError(f"head_dim {places}: the cpu executor takes multiples of 32")
    written: list[Written] = [None, None]
    for op in program.ops:
        _check_vectors(op, program)
        match op:
            case Norm():
                written[op.out] = op.act, program.width
            case Attend():
                written[op.out] = op.act, program.heads * (op.head_dim or places)
            case Qkv():
                _check_reads(op, (op.q, op.k, op.v), written[op.source])
            case Proj():
                _check_reads(op, (op.weight,), written[op.source])
            case FfnIn():
                if op.source == op.out:
                    raise ModelError(f"FfnIn: reads and writes h[{op.out}]; it takes two different ones")
                _check_reads(op, (op.up,) if op.gate is None else (op.gate, op.up), written[op.source])
                written[op.out] = op.act_out, op.up.rows
            case Head():
                _check_reads(op, (op.weight,), (op.act, program.width))
            case Hidden():
                raise ModelError("Hidden: the cpu executor has no end without a head; the reference executor has")


def _check_reads(op: Qkv | Proj | FfnIn | Head, weights: tuple[Weight, ...], written: Written) -> None:
    name = type(op).__name__
    if written is None or op.act != written[0]:
        raise ModelError(f"{name}: reads its input as {op.act}, but it was written as {written and written[0]}")
    for weight in weights:
        _check_act(name, weight, op.act)
        if weight.cols != written[1]:
            raise ModelError(f"{name}: a matrix of {weight.rows} x {weight.cols} reads an input of {written[1]}")


def _check_act(name: str, weight: Weight, act: Act) -> None:
    if (act.bits, act.group) != read_as(weight.layout, weight.group) or act.group % 32:
        raise ModelError(
            f"{name}: {weight.layout.name} weights in groups of {weight.group} cannot read inputs of {act.bits} bits "
            f"in groups of {act.group}; all weights of one operation must have the same kind of layout"
        )


def _check_vectors(op: Op, program: Program) -> None:
    """What an op has beside its matrices is of known kind and of the size that is read."""
    name, width, heads = type(op).__name__, program.width, program.heads
    match op:
        case Embed(positions=positions) if positions is not None:
            _check_size(f"{name}: positions", positions, program.max_len * width, more=True)
        case Norm() | Renorm():
            _check_norm(name, op.norm, width)
        case Qkv():
            _check_heads(f"{name}: q_norm", op.q_norm, heads, program)
            _check_heads(f"{name}: k_norm", op.k_norm, program.kv.kv_heads, program)
            _check_rope(op, program)
        case Attend():
            _check_size(f"{name}: slopes", op.slopes, heads)
            _check_size(f"{name}: sinks", op.sinks, heads)
        case Proj():
            _check_size(f"{name}: bias", op.bias, width)
            _check_norm(name, op.post, width)
        case FfnIn() if op.activation not in ACTIVATIONS:
            raise ModelError(f"{name}: activation {op.activation!r}; it may be {', '.join(ACTIVATIONS)}")
        case Head():
            _check_norm(name, op.norm, width)
            _check_size(f"{name}: bias", op.bias, program.vocab)


def _check_norm(name: str, norm: Norming | None, size: int) -> None:
    if norm is None:
        return
    if norm.kind not in NORMS:
        raise ModelError(f"{name}: norm of kind {norm.kind!r}; it may be {', '.join(NORMS)}")
    _check_size(f"{name}: norm weight", norm.weight, size)
    _check_size(f"{name}: norm bias", norm.bias, size)


def _check_heads(name: str, norm: HeadNorm | None, heads: int, program: Program) -> None:
    """A norm of heads has a weight, which holds zeros where no dim is: all heads', each head's own, or one for all."""
    if norm is None or norm.norm.kind == "none":
        return
    places, weight = program.kv.head_dim, norm.norm.weight
    if weight is None:
        raise ModelError(f"{name}: no weight; it has one for each place of a head")
    _check_norm(name, norm.norm, places * heads if norm.whole or weight.ndim == 2 else places)


def _check_rope(op: Qkv, program: Program) -> None:
    if op.rope is None:
        return
    for table in (op.rope.cos, op.rope.sin):
        _check_size("Qkv: rope", table, program.max_len * program.kv.head_dim // 2, more=True)


def _check_size(name: str, vector: Floats | None, size: int, *, more: bool = False) -> None:
    if vector is not None and not (vector.size == size or (more and vector.size > size)):
        raise ModelError(f"{name}: {vector.size} numbers where {size}{' or more' if more else ''} are needed")
