"""What the kernels take: a program is checked before they see it, and refused by what does not fit.

Inputs must have been written in the form in which they are read, and vectors must be as long as the kernels read them:
they do not look themselves. Knows the ops, and nothing of the library.
"""

from __future__ import annotations

import numpy as np

from octavo.core.errors import ModelError
from octavo.kernels.weight import Weight, read_as
from octavo.program.ops import (
    ACTIVATIONS,
    NORMS,
    SCORINGS,
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

Reads = Qkv | Latent | LatentQuery | PerHead | Conv | Proj | FfnIn | Route | MoeIn | MoeOut | Head
Written = tuple[Act, int, int] | None  # the form of an h, its inputs, and rows of a token


def check(program: Program) -> None:
    """Refuse what the kernels do not take. Raises ModelError."""
    places = program.kv.head_dim
    if places % 32:
        raise ModelError(f"head_dim {places}: the cpu executor takes multiples of 32")
    written: list[Written] = [None, None]
    routed: Route | None = None
    for op in program.ops:
        _check_vectors(op, program)
        match op:
            case Norm():
                _check_order(op.act, program.width)
                written[op.out] = op.act, program.width, 1
            case Attend():
                dims = op.head_dim or places
                _check_order(op.act, dims if op.apart else program.heads * dims, possible=not op.apart)
                written[op.out] = (op.act, dims, program.heads) if op.apart else (op.act, program.heads * dims, 1)
            case Qkv():
                _check_reads(op, (op.q, op.k, op.v), written[op.source])
            case Latent():
                _check_reads(op, (op.weight,) if op.narrow is None else (op.weight, op.narrow), written[op.source])
                if op.narrow is not None:
                    _check_apart(op)
                    written[op.out] = op.act_out, op.narrow.rows, 1
            case LatentQuery():
                _check_reads(op, (op.weight,), written[op.source])
                _check_act("LatentQuery", op.up, op.act_up)
            case PerHead():
                _check_apart(op)
                _check_reads(op, (op.weight,), written[op.source], program.heads)
                written[op.out] = op.act_out, op.weight.rows, 1
            case Conv():
                _check_apart(op)
                _check_reads(op, (op.b, op.c, op.z), written[op.source])
                written[op.out] = op.act_out, op.b.rows, 1
            case Proj():
                _check_reads(op, (op.weight,), written[op.source])
                if op.gated and (routed is None or routed.gate is None):
                    raise ModelError("Proj: gated, but no Route before it has a gate")
            case FfnIn():
                _check_apart(op)
                _check_reads(op, (op.up,) if op.gate is None else (op.gate, op.up), written[op.source])
                written[op.out] = op.act_out, op.up.rows, 1
            case Route():
                _check_reads(op, (op.weight,) if op.gate is None else (op.weight, op.gate), written[op.source])
                routed = op
            case MoeIn():
                _check_apart(op)
                _check_routed(op, len(op.experts), routed)
                _check_reads(op, _matrices(op), written[op.source])
                written[op.out] = op.act_out, op.experts[0].up.rows, op.top
            case MoeOut():
                _check_routed(op, len(op.weights), routed)
                _check_reads(op, op.weights, written[op.source], op.top)
            case Head():
                _check_order(op.act, program.width)
                _check_reads(op, (op.weight,), (op.act, program.width, 1))


def _check_reads(op: Reads, weights: tuple[Weight, ...], written: Written, each: int = 1) -> None:
    """The matrices of an op fit what it reads, `each` rows of a token."""
    name, act = type(op).__name__, Act(32) if isinstance(op, Route) else op.act
    if written is None or act != written[0]:
        raise ModelError(f"{name}: reads its input as {act}, but it was written as {written and written[0]}")
    if written[2] != each:
        raise ModelError(f"{name}: reads {each} rows of a token, but {written[2]} were written")
    for weight in weights:
        _check_act(name, weight, act)
        if weight.cols != written[1]:
            raise ModelError(f"{name}: a matrix of {weight.rows} x {weight.cols} reads an input of {written[1]}")


def _matrices(op: MoeIn) -> tuple[Weight, ...]:
    """Gate and up of all experts, which are all gated or not, and have one shape."""
    matrices = [(expert.gate, expert.up) if expert.gate else (expert.up,) for expert in op.experts]
    _check_alike("MoeIn", tuple(weight for pair in matrices for weight in pair), len(op.experts) * len(matrices[0]))
    for expert in op.experts:
        for bias in (expert.gate_bias, expert.up_bias):
            _check_size("MoeIn: bias", bias, expert.up.rows)
    gated = op.experts[0].gate is not None
    if op.activation not in (*ACTIVATIONS, *(("swiglu_oai",) if gated else ())):
        raise ModelError(
            f"MoeIn: activation {op.activation!r}; it may be {', '.join(ACTIVATIONS)} or, gated, swiglu_oai"
        )
    return tuple(weight for pair in matrices for weight in pair)


def _check_alike(name: str, weights: tuple[Weight, ...], count: int) -> None:
    shapes = {(weight.rows, weight.cols) for weight in weights}
    if len(shapes) != 1 or len(weights) != count:
        raise ModelError(f"{name}: {len(weights)} matrices of {len(shapes)} shapes; experts have {count} of one shape")


def _check_routed(op: MoeIn | MoeOut, experts: int, routed: Route | None) -> None:
    """The experts are those that the Route before chooses among."""
    name = type(op).__name__
    if routed is None or (routed.weight.rows, routed.top) != (experts, op.top):
        found = "none" if routed is None else f"{routed.top} of {routed.weight.rows}"
        raise ModelError(f"{name}: {op.top} of {experts} experts, but the Route before it chooses {found}")


def _check_apart(op: FfnIn | MoeIn | Latent | PerHead | Conv) -> None:
    if op.source == op.out:
        raise ModelError(f"{type(op).__name__}: reads and writes h[{op.out}]; it takes two different ones")
    if op.act_out.order:
        raise ModelError(f"{type(op).__name__}: gives its outputs in order; only a norm and attention take another")


def _check_route(op: Route) -> None:
    experts = op.weight.rows
    _check_size("Route: bias", op.bias, experts)
    _check_size("Route: correction", op.correction, experts)
    if op.scoring not in SCORINGS:
        raise ModelError(f"Route: scoring {op.scoring!r}; it may be {', '.join(SCORINGS)}")
    size = experts // max(op.groups, 1)
    divided = op.groups > 0 and size * op.groups == experts and 1 <= op.top_groups <= op.groups
    if not divided or not 1 <= op.group_top <= size or not 1 <= op.top <= size * op.top_groups:
        shown = f"{op.top} of {experts} experts, {op.top_groups} of {op.groups} groups by {op.group_top}"
        raise ModelError(f"Route: {shown}: groups divide the experts evenly, and those taken hold enough")


def _check_act(name: str, weight: Weight, act: Act) -> None:
    if (act.bits, act.group) != read_as(weight.layout, weight.group) or act.group % 32:
        raise ModelError(
            f"{name}: {weight.layout.name} weights in groups of {weight.group} cannot read inputs of {act.bits} bits "
            f"in groups of {act.group}; all weights of one operation must have the same kind of layout"
        )
    if act.order != weight.order:
        raise ModelError(f"{name}: weights whose inputs lie in another order than the inputs that they read")


def _check_order(act: Act, size: int, possible: bool = True) -> None:
    """An order names each of `size` inputs once."""
    order = np.frombuffer(act.order, np.int32)
    if act.order and not (possible and np.array_equal(np.sort(order), np.arange(size))):
        raise ModelError(f"an order of {len(order)} inputs where each of {size} is read once, side by side")


def _check_vectors(op: Op, program: Program) -> None:
    """What an op has beside its matrices is of known kind and of the size that is read."""
    name, width, heads, places = type(op).__name__, program.width, program.heads, program.kv.head_dim
    match op:
        case Embed():
            _check_size(f"{name}: positions", op.positions, program.max_len * width, more=True)
            _check_size(f"{name}: types", op.types, width, more=True)
        case Norm() | Renorm() | Hidden():
            _check_norm(name, op.norm, width)
        case Qkv():
            _check_heads(f"{name}: q_norm", op.q_norm, heads, program)
            _check_heads(f"{name}: k_norm", op.k_norm, program.kv.kv_heads, program)
            _check_rope(name, op.rope, program, places)
        case Latent():
            _check_latent(op, program)
        case LatentQuery():
            rows, rest = program.heads * (op.up.cols + places - op.rank), places - op.rank
            _check_shape(name, op.weight, rows, 1)
            _check_shape(f"{name}: up", op.up, program.heads * op.rank, 32)
            _check_rope(name, op.rope, program, rest)
        case PerHead():
            if op.weight.rows % (32 * heads):
                raise ModelError(f"{name}: {op.weight.rows} outputs of {heads} heads; each has a multiple of 32")
        case Attend():
            _check_size(f"{name}: slopes", op.slopes, heads)
            _check_size(f"{name}: sinks", op.sinks, heads)
        case Conv():
            _check_conv(op, program)
        case Proj():
            _check_size(f"{name}: bias", op.bias, width)
            _check_norm(name, op.post, width)
        case FfnIn() if op.activation not in ACTIVATIONS:
            raise ModelError(f"{name}: activation {op.activation!r}; it may be {', '.join(ACTIVATIONS)}")
        case Route():
            _check_route(op)
        case MoeOut():
            _check_alike(name, op.weights, len(op.biases))
            for bias in op.biases:
                _check_size(f"{name}: bias", bias, width)
            _check_norm(name, op.post, width)
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


def _check_latent(op: Latent, program: Program) -> None:
    places = program.kv.head_dim
    if program.kv.kv_heads != 1 or op.rank % 32 or not 0 < op.rank <= places:
        shown = f"{op.rank} of {places} places, {program.kv.kv_heads} key heads"
        raise ModelError(f"Latent: {shown}: there is one key head, and its first part is a multiple of 32")
    _check_shape("Latent", op.weight, places, 1)
    _check_size("Latent: bias", op.bias, places)
    _check_norm("Latent", op.norm, op.rank)
    _check_rope("Latent", op.rope, program, places - op.rank)
    if op.narrow is not None:
        _check_size("Latent: narrow bias", op.narrow_bias, op.narrow.rows)
        _check_norm("Latent: narrow", op.narrow_norm, op.narrow.rows)


def _check_conv(op: Conv, program: Program) -> None:
    width, seats = program.width, program.kv.seats(program.width)
    for weight in (op.b, op.c, op.z):
        _check_shape("Conv", weight, width, 1)
    for bias in (op.b_bias, op.c_bias, op.z_bias, op.bias):
        _check_size("Conv: bias", bias, width)
    if op.taps.ndim != 2 or not len(op.taps):
        raise ModelError(f"Conv: taps of {list(op.taps.shape)}; they are rows of {width}, one or more")
    _check_size("Conv: taps", op.taps, len(op.taps) * width)
    if op.layer + seats > program.kv.layers:
        raise ModelError(f"Conv: takes {seats} places from place {op.layer} on, of {program.kv.layers}")


def _check_shape(name: str, weight: Weight, rows: int, inputs: int) -> None:
    if weight.rows != rows or weight.cols % inputs:
        wanted = f"{rows} rows" if inputs == 1 else f"{rows} rows and a multiple of {inputs} inputs"
        raise ModelError(f"{name}: a matrix of {weight.rows} x {weight.cols} where one of {wanted} is needed")


def _check_rope(name: str, rope: Rope | None, program: Program, places: int) -> None:
    if rope is None:
        return
    for table in (rope.cos, rope.sin):
        _check_size(f"{name}: rope", table, program.max_len * places // 2, more=True)


def _check_size(name: str, vector: Floats | None, size: int, *, more: bool = False) -> None:
    if vector is not None and not (vector.size == size or (more and vector.size > size)):
        raise ModelError(f"{name}: {vector.size} numbers where {size}{' or more' if more else ''} are needed")
