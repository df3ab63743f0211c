"""The operations a model is made of. Each is one equation, one function in reference.py and one native kernel.

Registers, written and read by every program:

    x     float32 [tokens, width]            the residual stream
    h[0], h[1]  [tokens, ...]                what projections read, in the form `act` says, perhaps many rows a token
    q     float32 [tokens, heads, places]    queries, rotated
    choice  [tokens, top]                    experts of each token, with a share of each; and gate  [tokens]

`tokens` is the number of rows in the step; the pages hold keys and values (core/layout.py). Which h an op reads is its
`source`, which it writes its `out`.

A head of D dims takes D' places, the next multiple of 32, in q and in the pages (KvLayout.head_dim = D'). Its dims are
placed at load (models/rows.py): rows of q and k so that places i and i + D'/2 turn together, zeros where no dim is;
those of v in order, zeros behind. What attention gives is compact again: the first D places of each head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from octavo.core.layout import KvLayout
from octavo.kernels.weight import Weight
from octavo.program.forms import FLOAT32, NO_NORM
from octavo.program.forms import NORMS as NORMS
from octavo.program.forms import Act as Act
from octavo.program.forms import Floats as Floats
from octavo.program.forms import HeadNorm as HeadNorm
from octavo.program.forms import Norming as Norming
from octavo.program.forms import Rope as Rope

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
SCORINGS = ("softmax", "sigmoid")


@dataclass(frozen=True, slots=True, eq=False)
class Embed:
    """x = table[ids] * scale + types[type] + positions[position]. Rows are `width` long, positions max_len or more."""

    table: Weight
    scale: float = 1.0
    positions: Floats | None = None
    types: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Renorm:
    """x = norm(x)."""

    norm: Norming


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """h[out] = act(norm(x))."""

    norm: Norming
    act: Act
    out: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Qkv:
    """q = rope(q_norm(clamp(Wq h + bq))), k alike, v = clamp(Wv h + bv); k and v go to the pages, in their dtype.

    h is h[source]. q  # [heads * D', width]; k, v  # [kv_heads * D', width]; biases float32 or None. clip: the clamp is
    to +-clip, 0: none. head_dim: the true D; 0: all D' places. Norms and rope None: the identity. They go to the place
    `layer` in pages of cache group `group`, where Attend reads them.
    """

    q: Weight
    k: Weight
    v: Weight
    q_bias: Floats | None
    k_bias: Floats | None
    v_bias: Floats | None
    rope: Rope | None
    layer: int
    act: Act
    source: int = 0
    q_norm: HeadNorm | None = None
    k_norm: HeadNorm | None = None
    clip: float = 0.0
    head_dim: int = 0
    group: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Latent:
    """The key and value that all heads share, and a narrow query (DeepSeek-V2, 2024: multi-head latent attention).

    z = W h + b with h = h[source]; key = (norm(first `rank` of z), rope(rest of z)), value = norm(first `rank` of z),
    with zeros behind; both go to the pages as those of Qkv. There is one key head. Where there is a `narrow`:
    h[out] = act_out(narrow_norm(N h + n)).

    weight  # [D', width]; rank is a multiple of 32; rope.cos, rope.sin  # [positions, (D' - rank) / 2], which turn the
    rest as a head of its own; narrow  # [inputs, width]; biases float32 or None
    """

    weight: Weight
    bias: Floats | None
    norm: Norming
    rope: Rope | None
    rank: int
    layer: int
    act: Act
    source: int = 0
    narrow: Weight | None = None
    narrow_bias: Floats | None = None
    narrow_norm: Norming = NO_NORM
    act_out: Act = FLOAT32
    out: int = 1
    group: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LatentQuery:
    """q = (U_i act_up(first of z_i), rope(rest of z_i)) for each head i, z = W h with h = h[source].

    U_i takes a head's query to where the latent keys are. weight  # [heads * (inputs of U_i + D' - rank), width];
    up  # [heads * rank, inputs of U_i], those of the heads one below the other; inputs are a multiple of 32; rope as
    Latent's
    """

    weight: Weight
    up: Weight
    rope: Rope | None
    rank: int
    act: Act
    act_up: Act
    source: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PerHead:
    """h[out] = act_out(W_i h_i for each head i, side by side), h_i being its row of h[source], as Attend gives it.

    weight  # [heads * outputs, inputs], those of the heads one below the other; outputs are a multiple of 32
    """

    weight: Weight
    act: Act
    act_out: Act
    source: int = 0
    out: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Attend:
    """h[out] = act(softmax(cap(scale * q k^T) + slope * (key position - own position)) v).

    Query head i reads key head i * kv_heads // heads. causal: a token sees the positions up to its own, of those with
    window > 0 only the last `window`, its own included; not causal: all positions of its run, window w: those less
    than w away. cap(s) = soft_cap * tanh(s / soft_cap); 0: s. slopes  # [heads] or None: 0. sinks  # [heads]: one more
    score in each softmax, of no value. q is rounded to the cache's dtype after scaling; probabilities may be rounded to
    it too. Softmax statistics are float32. head_dim: of each head's values the first D are given, and those behind are
    not read; 0: all. apart: h[out]  # [heads * tokens, D]: rows by head, then by token.
    """

    layer: int
    scale: float
    act: Act
    out: int = 0
    window: int = 0
    soft_cap: float = 0.0
    slopes: Floats | None = None
    sinks: Floats | None = None
    causal: bool = True
    head_dim: int = 0
    group: int = 0
    apart: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Conv:
    """h[out] = act_out(c * y): a short convolution of u = b * z between two gates (Liquid AI, 2025: LFM2).

    b = B h + bb, c = C h + bc, z = Z h + bz with h = h[source]. At position t

        y = bias + taps[0] * u[t - L + 1] + ... + taps[L - 1] * u[t]

    where u is 0 before the text. It is read from the pages, in their dtype, that of the token itself as well: at place
    `layer` of cache group `group` and as many places behind it as `width` numbers take (KvLayout.seats).

    b, c, z  # [width, width]; taps  # [L, width]; bias and those of the matrices  # [width] or None: 0
    """

    b: Weight
    c: Weight
    z: Weight
    b_bias: Floats | None
    c_bias: Floats | None
    z_bias: Floats | None
    taps: Floats
    bias: Floats | None
    layer: int
    act: Act
    act_out: Act
    source: int = 0
    out: int = 1
    group: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Proj:
    """x = x + scale * post(W h[source] + b). weight  # [width, inputs]; post None: the identity.

    gated: scale is multiplied with the token's gate, as the last Route gave it.
    """

    weight: Weight
    bias: Floats | None
    act: Act
    source: int = 0
    scale: float = 1.0
    post: Norming | None = None
    gated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FfnIn:
    """h[out] = act_out(f(G h + bg) * (U h + bu)), or without gate act_out(f(U h + bu)); h is h[source].

    gate, up  # [inner, width]. f by `activation`:

        "silu"       z / (1 + exp(-z))
        "gelu"       z * (1 + erf(z / sqrt(2))) / 2
        "gelu_tanh"  z * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 z^3))) / 2
        "relu"       max(z, 0)
        "relu2"      max(z, 0)^2
    """

    gate: Weight | None
    up: Weight
    gate_bias: Floats | None
    up_bias: Floats | None
    activation: str
    act: Act
    act_out: Act
    source: int = 0
    out: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """choice = the `top` experts of each token, and their shares, for the MoeIn and MoeOut that follow.

    z = W h + b with h = h[source] in float32; scores s by `scoring`: "softmax" over all experts, "sigmoid"
    1 / (1 + exp(-z)) each. Experts are ranked by s + correction, the best first, the lower number first where equal
    (of a softmax without correction by z, which rounds no two of them together). groups > 1: the experts, in order,
    are so many groups of equal size; a group is worth the sum of its `group_top` largest ranks, and only experts of
    the `top_groups` most valuable ones are taken, again the lower number first. An expert's share is

        scale * s / d,  d = sum of s over the token's experts + 1e-20 if `renormalise`, else 1

    weight  # [experts, width]; bias, correction  # [experts] or None: 0. gate  # [1, width] or None: also gate =
    sigmoid(gate h), which a Proj is scaled with (Qwen2-MoE's shared expert). Both matrices are float32.
    """

    weight: Weight
    bias: Floats | None
    top: int
    scoring: str = "softmax"
    renormalise: bool = False
    scale: float = 1.0
    correction: Floats | None = None
    groups: int = 1
    top_groups: int = 1
    group_top: int = 1
    gate: Weight | None = None
    source: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Expert:
    """One expert's gate and up. gate, up  # [inner, width]; gate None: not gated; biases  # [inner] or None: 0"""

    gate: Weight | None
    up: Weight
    gate_bias: Floats | None = None
    up_bias: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MoeIn:
    """h[out] = the hidden layer of each token's experts: act_out(f(G h + bg) * (U h + bu)), as FfnIn; h is h[source].

    h[out]  # [tokens * top, inner]: rows by expert, then by token. `activation` as FfnIn's, or, of gated experts,

        "swiglu_oai"  z' = min(z, limit), u' = min(max(u, -limit), limit): z' / (1 + exp(-1.702 z')) * (u' + 1)

    in the place of f(z) * u. All experts have one shape.
    """

    experts: tuple[Expert, ...]
    top: int
    activation: str
    act: Act
    act_out: Act
    source: int = 0
    out: int = 1
    limit: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class MoeOut:
    """x = x + scale * post(sum over a token's experts of share * (D h + b)), h being its rows of h[source].

    weights  # [width, inner] of each expert; biases  # [width] of each expert, or None: 0. The sum is in the order of
    the experts' numbers.
    """

    weights: tuple[Weight, ...]
    biases: tuple[Floats | None, ...]
    top: int
    act: Act
    source: int = 1
    scale: float = 1.0
    post: Norming | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """logits = cap(scale * (W act(norm(x)) + b)) for the rows that are asked, then drawing (program/batch.py).

    weight  # [vocab, width]; cap(s) = soft_cap * tanh(s / soft_cap); 0: s.
    """

    norm: Norming
    weight: Weight
    bias: Floats | None
    act: Act
    scale: float = 1.0
    soft_cap: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Hidden:
    """vectors = norm(x) for the rows that are asked: what an encoder ends with. float32 [rows, width]"""

    norm: Norming


Op = (
    Embed
    | Renorm
    | Norm
    | Qkv
    | Latent
    | LatentQuery
    | Attend
    | PerHead
    | Conv
    | Proj
    | FfnIn
    | Route
    | MoeIn
    | MoeOut
    | Head
    | Hidden
)


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A model, bound to its weights. `ops` begin with Embed and end with Head or Hidden."""

    ops: tuple[Op, ...]
    width: int
    heads: int
    kv: KvLayout
    vocab: int
    max_len: int  # positions the rotation tables cover
    weight_bytes: int = field(default=0)
