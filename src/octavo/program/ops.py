"""The operations a model is made of. Each is one equation, one function in reference.py and one native kernel.

Registers, written and read by every program:

    x  float32 [tokens, width]   the residual stream
    h  [tokens, ...]             what the next projection reads, in the form `act` says
    q  float32 [tokens, heads, head_dim]   queries, rotated

`tokens` is the number of rows in the step; the pages hold keys and values (core/layout.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from octavo.core.layout import KvLayout
from octavo.kernels.weight import Weight

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Act:
    """The form in which a projection reads its input.

    bits 32: float32. 16: rounded to bfloat16. 8: int8 codes in groups of `group` inputs, symmetric: s = amax / 127,
    code = round_half_even(value * (127 / amax)) clamped to +-127, value ~ s * code; a group of zeros has s = 0.
    """

    bits: int
    group: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Embed:
    """x = table[ids] * scale. table  # [vocab, width]"""

    table: Weight
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """h = act(x / sqrt(mean(x^2) + eps) * weight), the mean over the width (RMS norm). weight  # [width]"""

    weight: Floats
    eps: float
    act: Act


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """Rotation tables. cos, sin  # [positions, head_dim / 2]; dims i and i + head_dim / 2 turn together."""

    cos: Floats
    sin: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Qkv:
    """q = rope(Wq h + bq), k = rope(Wk h + bk), v = Wv h + bv; k and v go to their pages of `layer`, in its dtype.

    q  # [heads * head_dim, width]; k, v  # [kv_heads * head_dim, width]; biases float32 or None. Rows of a head are in
    the order of Hugging Face: the two halves of the head rotate against each other.
    """

    q: Weight
    k: Weight
    v: Weight
    q_bias: Floats | None
    k_bias: Floats | None
    v_bias: Floats | None
    rope: Rope
    layer: int
    act: Act


@dataclass(frozen=True, slots=True, eq=False)
class Attend:
    """h = act(softmax(scale * q k^T) v), causal: a token sees the positions up to its own.

    Query head i reads key head i * kv_heads // heads. q is rounded to the cache's dtype after scaling;
    probabilities may be rounded to it too. Softmax statistics are float32.
    """

    layer: int
    scale: float
    act: Act


@dataclass(frozen=True, slots=True, eq=False)
class Proj:
    """x = x + W h + b. weight  # [width, inputs]"""

    weight: Weight
    bias: Floats | None
    act: Act


@dataclass(frozen=True, slots=True, eq=False)
class FfnIn:
    """h = act_out(silu(G h + bg) * (U h + bu)), silu(z) = z / (1 + exp(-z)). gate, up  # [inner, width]"""

    gate: Weight
    up: Weight
    gate_bias: Floats | None
    up_bias: Floats | None
    act: Act
    act_out: Act


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """logits = W act(norm(x)) for the rows that are asked, then drawing (program/batch.py). weight  # [vocab, width]"""

    norm: Floats
    eps: float
    weight: Weight
    act: Act


Op = Embed | Norm | Qkv | Attend | Proj | FfnIn | Head


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A model, bound to its weights. `ops` begin with Embed and end with Head."""

    ops: tuple[Op, ...]
    width: int
    heads: int
    kv: KvLayout
    vocab: int
    max_len: int  # positions the rotation tables cover
    weight_bytes: int = field(default=0)
