"""From a declared model and its weights to a program. Once, at load; owns the choice of activation forms.

Every matrix is read by one operation, save a tied table, which embedding and head share as one object. Layers with the
same `Rope` share one pair of tables. Knows no checkpoint format and no executor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from octavo.core.errors import InvalidValue, ModelError
from octavo.core.layout import KV_BYTES
from octavo.kernels.weight import Weight
from octavo.models import spec as declared
from octavo.models.groups import Seat, kv_layout, seats
from octavo.models.lower_latent import latent_ops
from octavo.models.named import Named, Weights
from octavo.models.parts import parts
from octavo.models.rope import slopes, tables
from octavo.models.spec import Attn, Conv, Layer, Mlp, ModelSpec, Moe, places
from octavo.program.ops import (
    Act,
    Attend,
    Embed,
    Expert,
    FfnIn,
    Head,
    HeadNorm,
    Hidden,
    MoeIn,
    MoeOut,
    Norm,
    Norming,
    Op,
    Program,
    Proj,
    Qkv,
    Renorm,
    Rope,
    Route,
)
from octavo.program.ops import Conv as ShortConv


def lower(spec: ModelSpec, weights: Weights, *, kv_dtype: str, max_len: int, exact: bool = False) -> Program:
    """The program of a model whose sequences hold up to `max_len` positions.

    `weights` by the names of models/parts.py. exact: every projection reads float32 activations, whatever the form of
    its weight. Raises ModelError where the model cannot be expressed, and InvalidValue for a cache dtype that does not
    exist.
    """
    if kv_dtype not in KV_BYTES:
        raise InvalidValue("kv_dtype", kv_dtype, " or ".join(KV_BYTES))
    attn = _same_heads(spec)
    if spec.positions and max_len > spec.positions:
        raise ModelError(f"{max_len} positions where the model has learned {spec.positions}")
    named = Named(weights, exact, {part.key: part for part in parts(spec)})
    for key in named.declared:
        named.check(key)
    ropes = {rope: tables(rope, attn.turned, max_len) for rope in {attn.rope for attn in spec.attns} if rope}
    embed = named.matrix("embed")
    positions = named.numbers("positions")[:max_len] if spec.positions else None
    types = named.numbers("types") if spec.types else None
    ops: list[Op] = [Embed(embed, spec.embed_scale, positions, types)]
    if spec.embed_norm:
        ops.append(Renorm(named.norm("embed_norm", spec.embed_norm)))
    for index, (layer, seat) in enumerate(zip(spec.layers, seats(spec), strict=True)):
        ops.extend(_Lowered(named, layer, index, seat, ropes).ops())
    ops.append(_end(named, spec, embed))
    return Program(
        ops=tuple(ops),
        width=spec.width,
        heads=attn.heads,
        kv=kv_layout(spec, kv_dtype),
        vocab=spec.vocab,
        max_len=max_len,
        weight_bytes=sum(weight.nbytes for weight in weights.values()),
    )


def _end(named: Named, spec: ModelSpec, embed: Weight) -> Head | Hidden:
    """What a program ends with: the head of a decoder, or an encoder's vectors."""
    norm = named.norm("norm", spec.norm)
    if not spec.head:
        return Hidden(norm)
    head, act = embed if spec.tied else named.matrix("head"), named.act("embed" if spec.tied else "head")
    return Head(norm, head, named.bias("head"), act, spec.logit_scale, spec.soft_cap)


def _same_heads(spec: ModelSpec) -> Attn:
    """The attention whose heads all layers that have it share."""
    if not spec.attns:
        raise ModelError("no layer has attention; at least one must, since its heads say how large a page is")
    attn = spec.attns[0]
    shape = (attn.heads, attn.kv_heads, attn.head_dim)
    for index, layer in enumerate(spec.layers):
        other = layer.mixer
        if isinstance(other, Attn) and (other.heads, other.kv_heads, other.head_dim) != shape:
            raise ModelError(f"layers.{index}: heads differ from those of others; all layers must share one shape")
    if attn.head_dim % 2 or attn.heads % attn.kv_heads:
        raise ModelError(f"{attn.heads} heads of {attn.head_dim} over {attn.kv_heads} key heads: uneven")
    return attn


@dataclass(frozen=True, slots=True)
class _Lowered:
    """One layer on its way to ops."""

    named: Named
    layer: Layer
    index: int
    seat: Seat
    ropes: Mapping[declared.Rope, Rope]

    @property
    def at(self) -> str:
        return f"layers.{self.index}."

    def ops(self) -> Iterator[Op]:
        """Attention and feed-forward, one after the other or both from the same x."""
        read: Act | None = None
        if isinstance(self.layer.mixer, Conv):
            yield from self._conv()
        elif self.layer.mixer.latent:
            yield from self._latent()
        else:
            read = self.named.act(*(self.at + name for name in ("q", "k", "v")))
            yield self._norm("attn_norm", self.layer.first or self.layer.norm, read)
            yield self._qkv(read)
            if not self.layer.parallel:
                yield self._attend()
                yield from self._added("attn", "o", 0)
        if isinstance(self.layer.ffn, Moe):
            yield from self._mixture(self.layer.ffn)
            return
        wanted = self.named.act(*self._inputs(self.layer.ffn))
        if not self.layer.shared or wanted != read:
            yield self._norm("attn_norm" if self.layer.shared else "ffn_norm", self.layer.norm, wanted)
        yield self._ffn_in(self.layer.ffn, wanted)
        if self.layer.parallel:
            yield self._attend()
            yield from self._added("attn", "o", 0)
        yield from self._added("ffn", "down", 1)

    def _latent(self) -> Iterator[Op]:
        """Attention with one key for all heads."""
        layer, attn, named = self.layer, self.layer.attn, self.named
        if attn.latent is None or layer.parallel or layer.shared:
            raise ModelError(f"{self.at}attn: latent attention beside a feed-forward")
        read = named.act(*(self.at + name for name in ("kv_a", "q_a" if attn.latent.narrow else "q")))
        yield self._norm("attn_norm", layer.first or layer.norm, read)
        rope = self.ropes[attn.rope] if attn.rope else None
        yield from latent_ops(named, attn, attn.latent, self.at, self.seat, rope, read)
        yield from self._added("attn", "o", 1)

    def _conv(self) -> Iterator[Op]:
        """A convolution in attention's place."""
        layer, named = self.layer, self.named
        if layer.parallel or layer.shared:
            raise ModelError(f"{self.at}conv: a convolution beside a feed-forward")
        b, c, z = (self.at + name for name in ("conv_b", "conv_c", "conv_z"))
        read = named.act(b, c, z)
        yield self._norm("attn_norm", layer.first or layer.norm, read)
        yield ShortConv(
            named.matrix(b),
            named.matrix(c),
            named.matrix(z),
            named.bias(b),
            named.bias(c),
            named.bias(z),
            taps=np.ascontiguousarray(named.numbers(self.at + "taps").T),
            bias=named.bias(self.at + "taps"),
            layer=self.seat.layer,
            act=read,
            act_out=named.act(self.at + "o"),
            group=self.seat.group,
        )
        yield from self._added("attn", "o", 1)

    def _inputs(self, ffn: Mlp) -> list[str]:
        """The matrices that read what a feed-forward reads."""
        return [self.at + name for name in (("gate", "up") if ffn.gated else ("up",))]

    def _norm(self, name: str, norm: declared.Norm, act: Act, out: int = 0) -> Norm:
        return Norm(self.named.norm(self.at + name, norm), act, out)

    def _mixture(self, moe: Moe) -> Iterator[Op]:
        """The choice of experts, the shared one, the chosen ones: all read x as it was before any of them."""
        named, at, layer = self.named, self.at, self.layer
        if layer.parallel or layer.shared or layer.after or (layer.post and moe.shared):
            raise ModelError(f"{at}ffn: a mixture of experts beside attention, or normed together with a shared one")
        yield self._norm("ffn_norm", layer.norm, Act(32), out=1)
        yield self._route(moe)
        wanted = named.act(*(f"{at}{e}.expert_{name}" for name in ("gate", "up") for e in range(moe.experts)))
        read = named.act(*self._inputs(moe.shared)) if moe.shared else None
        if moe.shared and read:
            yield self._norm("ffn_norm", layer.norm, read)
            yield self._ffn_in(moe.shared, read)
        if read != wanted:
            yield self._norm("ffn_norm", layer.norm, wanted)
        if moe.shared:
            yield from self._added("ffn", "down", 1, moe.shared_gate)
        yield from self._experts(moe, wanted)

    def _route(self, moe: Moe) -> Route:
        named, at = self.named, self.at
        return Route(
            named.matrix(at + "router"),
            named.bias(at + "router"),
            moe.top,
            scoring=moe.scoring,
            renormalise=moe.renormalise,
            scale=moe.scale,
            correction=named.numbers(at + "correction") if moe.correction else None,
            groups=moe.groups,
            top_groups=moe.top_groups,
            group_top=moe.group_top,
            gate=named.matrix(at + "shared_gate") if moe.shared_gate else None,
            source=1,
        )

    def _experts(self, moe: Moe, act: Act) -> Iterator[Op]:
        named, numbers = self.named, range(moe.experts)

        def keys(name: str) -> list[str]:
            return [f"{self.at}{number}.expert_{name}" for number in numbers]

        experts = tuple(
            Expert(named.matrix(gate), named.matrix(up), named.bias(gate), named.bias(up))
            for gate, up in zip(keys("gate"), keys("up"), strict=True)
        )
        down = named.act(*keys("down"))
        yield MoeIn(experts, moe.top, moe.activation, act, act_out=down, limit=moe.limit)
        weights, biases = tuple(map(named.matrix, keys("down"))), tuple(map(named.bias, keys("down")))
        post = named.norm(self.at + "ffn_post", self.layer.post) if self.layer.post else None
        yield MoeOut(weights, biases, moe.top, down, scale=self.layer.scale, post=post)

    def _qkv(self, act: Act) -> Qkv:
        named, at, attn = self.named, self.at, self.layer.attn
        return Qkv(
            q=named.matrix(at + "q"),
            k=named.matrix(at + "k"),
            v=named.matrix(at + "v"),
            q_bias=named.bias(at + "q"),
            k_bias=named.bias(at + "k"),
            v_bias=named.bias(at + "v"),
            rope=self.ropes[attn.rope] if attn.rope else None,
            layer=self.seat.layer,
            act=act,
            q_norm=self._head_norm("q_norm"),
            k_norm=self._head_norm("k_norm"),
            clip=attn.clip,
            head_dim=attn.head_dim,
            group=self.seat.group,
        )

    def _head_norm(self, name: str) -> HeadNorm | None:
        declared_norm = self.layer.attn.head_norm
        if declared_norm is None:
            return None
        norm = self.named.norm(self.at + name, declared_norm.norm)
        if declared_norm.shares == "none":
            room = places(self.layer.attn.head_dim)
            weight = None if norm.weight is None else norm.weight.reshape(-1, room)
            norm = Norming(norm.kind, weight, None if norm.bias is None else norm.bias.reshape(-1, room), norm.eps)
        return HeadNorm(norm, declared_norm.shares == "whole")

    def _attend(self) -> Attend:
        attn = self.layer.attn
        return Attend(
            self.seat.layer,
            attn.scale or float(attn.head_dim**-0.5),
            self.named.act(self.at + "o"),
            window=attn.window,
            soft_cap=attn.soft_cap,
            slopes=slopes(attn.heads, attn.alibi) * np.float32(attn.alibi_scale) if attn.alibi else None,
            sinks=self.named.numbers(self.at + "sinks") if attn.sinks else None,
            causal=attn.causal,
            head_dim=attn.head_dim,
            group=self.seat.group,
        )

    def _ffn_in(self, ffn: Mlp, act: Act) -> FfnIn:
        named, at = self.named, self.at
        return FfnIn(
            named.matrix(at + "gate") if ffn.gated else None,
            named.matrix(at + "up"),
            named.bias(at + "gate"),
            named.bias(at + "up"),
            activation=ffn.activation,
            act=act,
            act_out=named.act(at + "down"),
        )

    def _added(self, half: str, name: str, source: int, gated: bool = False) -> Iterator[Op]:
        """A projection added to x, and the norm of x after it."""
        named, key, layer = self.named, self.at + name, self.layer
        post = named.norm(f"{self.at}{half}_post", layer.post) if layer.post else None
        yield Proj(named.matrix(key), named.bias(key), named.act(key), source, layer.scale, post, gated)
        if layer.after:
            yield Renorm(named.norm(f"{self.at}{half}_after", layer.after))
