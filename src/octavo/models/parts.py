"""The weights that a declared model consists of: our names and shapes. Lowering and loading read the same list.

    embed  positions  types  embed_norm  norm  head (absent when tied)
    layers.{i}.attn_norm  .q  .k  .v  .q_norm  .k_norm  .sinks  .o  .attn_post  .attn_after
    layers.{i}.kv_a  .kv_a_norm  .k_b  .v_b  and .q, or .q_a  .q_a_norm  .q_b  of latent attention, beside the others
    layers.{i}.conv_b  .conv_c  .conv_z  .taps of a convolution, in the place of .q to .sinks
    layers.{i}.ffn_norm  .gate  .up  .down  .ffn_post  .ffn_after
    layers.{i}.router  .correction  .shared_gate
    layers.{i}.{e}.expert_gate  .expert_up  .expert_down  of each expert
    pool.{name}  .{name}_norm  of each layer behind a request's vector

and "_bias" after a projection or norm, where the model has it. Matrices are [outputs, inputs]; heads are in places
(models/rows.py). Knows no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from octavo.models.spec import Attn, Conv, Latent, Layer, Mlp, ModelSpec, Moe, Norm, places


@dataclass(frozen=True, slots=True)
class Part:
    """One weight. shape: of a matrix or a vector. plain: kept as float32 though it is a matrix. unit: rows are
    divided by their lengths. exact: a matrix of float32. layer: whose it is; expert: of which number, -1: of none."""

    key: str
    shape: tuple[int, ...]
    plain: bool = False
    unit: bool = False
    exact: bool = False
    layer: Layer | None = None
    expert: int = -1

    @property
    def name(self) -> str:
        """The last part of its name, without "_bias"."""
        return self.key.rpartition(".")[2].removesuffix("_bias")

    @property
    def is_vector(self) -> bool:
        """Whether it is kept as float32 numbers."""
        return self.plain or len(self.shape) == 1


def parts(spec: ModelSpec) -> Iterator[Part]:
    """Every weight of a model."""
    yield Part("embed", (spec.vocab, spec.width))
    if spec.positions:
        yield Part("positions", (spec.positions, spec.width), plain=True)
    if spec.types:
        yield Part("types", (spec.types, spec.width), plain=True)
    if spec.embed_norm:
        yield from _norm("embed_norm", spec.embed_norm, spec.width)
    for index, layer in enumerate(spec.layers):
        yield from _layer(f"layers.{index}.", layer, spec.width)
    yield from _norm("norm", spec.norm, spec.width)
    if spec.head and not spec.tied:
        yield Part("head", (spec.vocab, spec.width), unit=spec.unit_head)
    if spec.head and spec.head_bias:
        yield Part("head_bias", (spec.vocab,))
    yield from _pooler(spec)


def _pooler(spec: ModelSpec) -> Iterator[Part]:
    inputs = spec.width
    for dense in spec.pooler.layers if spec.pooler else ():
        key, outputs = "pool." + dense.name, dense.outputs
        yield Part(key, (outputs, inputs), plain=True)
        if dense.bias:
            yield Part(key + "_bias", (outputs,))
        if dense.norm:
            yield from _norm(key + "_norm", dense.norm, outputs)
        inputs = outputs


def _layer(at: str, layer: Layer, width: int) -> Iterator[Part]:
    yield from _norm(at + "attn_norm", layer.first or layer.norm, width, layer)
    if isinstance(layer.mixer, Conv):
        yield from _conv(at, layer.mixer, layer, width)
    else:
        yield from _attention(at, layer.mixer, layer, width)
    for half in ("attn", "ffn"):
        if half == "ffn":
            if not layer.shared:
                yield from _norm(at + "ffn_norm", layer.norm, width, layer)
            if layer.dense:
                yield from _dense(at, layer.dense, layer, width)
            if isinstance(layer.ffn, Moe):
                yield from _mixture(at, layer.ffn, layer, width)
        for name, norm in (("post", layer.post), ("after", layer.after)):
            if norm:
                yield from _norm(f"{at}{half}_{name}", norm, width, layer)


def _attention(at: str, attn: Attn, layer: Layer, width: int) -> Iterator[Part]:
    if attn.latent:
        yield from _latent(at, attn, attn.latent, layer, width)
    else:
        room = places(attn.head_dim)
        for name, heads in (("q", attn.heads), ("k", attn.kv_heads), ("v", attn.kv_heads)):
            yield from _matrix(at + name, heads * room, width, attn.qkv_bias, layer)
    yield from _head_norms(at, attn, layer)
    if attn.sinks:
        yield Part(at + "sinks", (attn.heads,), layer=layer)
    yield from _matrix(at + "o", width, attn.heads * attn.given, attn.out_bias, layer)


def _conv(at: str, conv: Conv, layer: Layer, width: int) -> Iterator[Part]:
    """conv_b, conv_c and conv_z follow each other: files have them in one tensor."""
    for name in ("conv_b", "conv_c", "conv_z"):
        yield Part(at + name, (width, width), layer=layer)
    for name in ("conv_b", "conv_c", "conv_z") if conv.bias else ():
        yield Part(f"{at}{name}_bias", (width,), layer=layer)
    yield Part(at + "taps", (width, conv.taps), plain=True, layer=layer)
    if conv.bias:
        yield Part(at + "taps_bias", (width,), layer=layer)
    yield from _matrix(at + "o", width, width, conv.bias, layer)


def _latent(at: str, attn: Attn, latent: Latent, layer: Layer, width: int) -> Iterator[Part]:
    """k_b and v_b follow each other: files may hold them in one tensor."""
    if latent.narrow:
        yield from _matrix(at + "q_a", latent.narrow, width, attn.qkv_bias, layer)
        yield from _norm(at + "q_a_norm", latent.norm, latent.narrow, layer)
    query = ("q_b", latent.narrow) if latent.narrow else ("q", width)
    yield Part(at + query[0], (attn.heads * attn.query, query[1]), layer=layer)
    yield from _matrix(at + "kv_a", places(attn.head_dim), width, attn.qkv_bias, layer)
    yield from _norm(at + "kv_a_norm", latent.norm, latent.rank, layer)
    yield Part(at + "k_b", (attn.heads * latent.rank, latent.plain), layer=layer)
    yield Part(at + "v_b", (attn.heads * latent.value, latent.rank), layer=layer)


def _dense(at: str, ffn: Mlp, layer: Layer, width: int) -> Iterator[Part]:
    for name in ("gate", "up") if ffn.gated else ("up",):
        yield from _matrix(at + name, ffn.inner, width, ffn.bias, layer)
    yield from _matrix(at + "down", width, ffn.inner, ffn.bias, layer)


def _mixture(at: str, moe: Moe, layer: Layer, width: int) -> Iterator[Part]:
    """Parts of one kind follow each other: files may hold those of all experts in one tensor."""
    yield Part(at + "router", (moe.experts, width), exact=True, layer=layer)
    if moe.router_bias:
        yield Part(at + "router_bias", (moe.experts,), layer=layer)
    if moe.correction:
        yield Part(at + "correction", (moe.experts,), layer=layer)
    if moe.shared_gate:
        yield Part(at + "shared_gate", (1, width), exact=True, layer=layer)
    shapes = {"gate": (moe.inner, width), "up": (moe.inner, width), "down": (width, moe.inner)}
    for name, shape in shapes.items():
        for expert in range(moe.experts):
            yield Part(f"{at}{expert}.expert_{name}", shape, layer=layer, expert=expert)
    for name, (rows, _) in shapes.items():
        for expert in range(moe.experts if moe.bias else 0):
            yield Part(f"{at}{expert}.expert_{name}_bias", (rows,), layer=layer, expert=expert)


def _matrix(key: str, rows: int, cols: int, bias: bool, layer: Layer) -> Iterator[Part]:
    yield Part(key, (rows, cols), layer=layer)
    if bias:
        yield Part(key + "_bias", (rows,), layer=layer)


def _norm(key: str, norm: Norm, size: int, layer: Layer | None = None) -> Iterator[Part]:
    if norm.weight and norm.kind != "none":
        yield Part(key, (size,), layer=layer)
    if norm.bias and norm.kind != "none":
        yield Part(key + "_bias", (size,), layer=layer)


def _head_norms(at: str, attn: Attn, layer: Layer) -> Iterator[Part]:
    if attn.head_norm is None:
        return
    for name, heads in (("q_norm", attn.heads), ("k_norm", attn.kv_heads)):
        count = 1 if attn.head_norm.shares == "all" else heads
        yield from _norm(at + name, attn.head_norm.norm, count * places(attn.head_dim), layer)
