"""From a declared model and its weights to a program. Once, at load; owns the choice of activation forms.

Every matrix is read by one operation, save a tied table, which embedding and head share as one object. Layers with the
same `Rope` share one pair of tables. Knows no checkpoint format and no executor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from octavo.core.errors import InvalidValue, ModelError
from octavo.core.layout import KV_BYTES, KvLayout
from octavo.kernels.weight import Layout, Weight
from octavo.models.rope import tables
from octavo.models.spec import Layer, ModelSpec
from octavo.program.ops import Act, Attend, Embed, FfnIn, Floats, Head, Norm, Norming, Op, Program, Proj, Qkv, Rope

ACT_BITS = {Layout.F32: 32, Layout.BF16: 16, Layout.W8: 8, Layout.W4: 8, Layout.W4M: 8}

Weights = Mapping[str, Weight | npt.NDArray[np.float32]]


def lower(spec: ModelSpec, weights: Weights, *, kv_dtype: str, max_len: int, exact: bool = False) -> Program:
    """The program of a model whose sequences hold up to `max_len` positions.

    `weights` by the names of models/load.py, the rows of q and k in Hugging Face order. exact: every projection reads
    float32 activations, whatever the form of its weight. Raises ModelError where the model cannot be expressed, and
    InvalidValue for a cache dtype that does not exist.
    """
    if kv_dtype not in KV_BYTES:
        raise InvalidValue("kv_dtype", kv_dtype, " or ".join(KV_BYTES))
    attn = spec.layers[0].attn
    shape = (attn.heads, attn.kv_heads, attn.head_dim)
    for index, layer in enumerate(spec.layers):
        if (layer.attn.heads, layer.attn.kv_heads, layer.attn.head_dim) != shape:
            raise ModelError(f"layers.{index}: heads differ from those of layer 0; all layers must share one shape")
    if attn.head_dim % 2 or attn.heads % attn.kv_heads:
        raise ModelError(f"{attn.heads} heads of {attn.head_dim} over {attn.kv_heads} key heads: uneven")
    named = _Named(weights, exact)
    embed = named.matrix("embed", spec.vocab, spec.width)
    head = embed if spec.tied else named.matrix("head", spec.vocab, spec.width)
    ropes = {layer.attn.rope: layer.attn.rope for layer in spec.layers}
    turned = {rope: tables(rope, attn.head_dim, max_len) for rope in ropes}
    ops: list[Op] = [Embed(embed)]
    for index, layer in enumerate(spec.layers):
        ops.extend(_layer(named, spec.width, layer, index, turned[layer.attn.rope]))
    act = named.act("head" if not spec.tied else "embed")
    ops.append(Head(Norming("rms", named.vector("norm", spec.width), eps=spec.norm.eps), head, None, act))
    return Program(
        ops=tuple(ops),
        width=spec.width,
        heads=attn.heads,
        kv=KvLayout(len(spec.layers), attn.kv_heads, attn.head_dim, kv_dtype),
        vocab=spec.vocab,
        max_len=max_len,
        weight_bytes=sum(weight.nbytes for weight in weights.values()),
    )


def _layer(named: _Named, width: int, layer: Layer, index: int, rope: Rope) -> Iterator[Op]:
    """Attention, then feed-forward, each after its norm and added to the residual stream."""
    at, attn, mlp = f"layers.{index}.", layer.attn, layer.mlp
    outputs, keys = attn.heads * attn.head_dim, attn.kv_heads * attn.head_dim
    q, k, v = (named.matrix(at + n, rows, width) for n, rows in (("q", outputs), ("k", keys), ("v", keys)))
    o = named.matrix(at + "o", width, outputs)
    gate, up = (named.matrix(at + n, mlp.inner, width) for n in ("gate", "up"))
    down = named.matrix(at + "down", width, mlp.inner)
    act_in = named.act(at + "q", at + "k", at + "v")
    act_o = named.act(at + "o")
    yield Norm(Norming("rms", named.vector(at + "attn_norm", width), eps=layer.norm.eps), act_in)
    yield Qkv(
        q,
        k,
        v,
        named.vector(at + "q_bias", outputs) if attn.qkv_bias else None,
        named.vector(at + "k_bias", keys) if attn.qkv_bias else None,
        named.vector(at + "v_bias", keys) if attn.qkv_bias else None,
        rope=rope,
        layer=index,
        act=act_in,
    )
    yield Attend(index, attn.scale or float(attn.head_dim**-0.5), act_o)
    yield Proj(o, named.vector(at + "o_bias", width) if attn.out_bias else None, act_o)
    act_ffn, act_down = named.act(at + "gate", at + "up"), named.act(at + "down")
    yield Norm(Norming("rms", named.vector(at + "ffn_norm", width), eps=layer.norm.eps), act_ffn)
    yield FfnIn(
        gate,
        up,
        named.vector(at + "gate_bias", mlp.inner) if mlp.bias else None,
        named.vector(at + "up_bias", mlp.inner) if mlp.bias else None,
        activation="silu",
        act=act_ffn,
        act_out=act_down,
    )
    yield Proj(down, named.vector(at + "down_bias", width) if mlp.bias else None, act_down, source=1)


class _Named:
    """The weights by name, each checked against the shape that the model declares."""

    def __init__(self, weights: Weights, exact: bool) -> None:
        self._weights = weights
        self._exact = exact

    def matrix(self, name: str, rows: int, cols: int) -> Weight:
        weight = self._weights.get(name)
        if not isinstance(weight, Weight) or (weight.rows, weight.cols) != (rows, cols):
            raise ModelError(f"{name}: {_shown(weight)} where a matrix of {rows} x {cols} is declared")
        return weight

    def vector(self, name: str, size: int) -> Floats:
        vector = self._weights.get(name)
        if not isinstance(vector, np.ndarray) or vector.shape != (size,) or vector.dtype != np.float32:
            raise ModelError(f"{name}: {_shown(vector)} where a float32 vector of {size} is declared")
        return vector

    def act(self, *names: str) -> Act:
        """The form in which all these matrices read one input: int8 in the groups of the weights' own scales."""
        if self._exact:
            return Act(32)
        matrices = [weight for name in names if isinstance(weight := self._weights[name], Weight)]
        forms = {ACT_BITS[weight.layout] for weight in matrices}
        if len(forms) > 1:
            stored = ", ".join(weight.layout.name for weight in matrices)
            raise ModelError(f"{', '.join(names)}: stored as {stored}, which do not read one form of input")
        bits = forms.pop()
        if bits != 8:
            return Act(bits)
        groups = {weight.group for weight in matrices}
        if len(groups) > 1:
            shown = ", ".join(str(group) for group in sorted(groups))
            raise ModelError(f"{', '.join(names)}: stored in groups of {shown}, which do not read one form of input")
        return Act(8, groups.pop())


def _shown(weight: Weight | npt.NDArray[np.float32] | None) -> str:
    """What was found, for an error."""
    if weight is None:
        return "nothing"
    if isinstance(weight, Weight):
        return f"a matrix of {weight.rows} x {weight.cols}"
    return f"{weight.dtype} {list(weight.shape)}"
