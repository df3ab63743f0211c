"""Latent attention on its way to ops: one key for all heads, up to what the output projection reads."""

from __future__ import annotations

from collections.abc import Iterator

from octavo.models.groups import Seat
from octavo.models.named import Named
from octavo.models.spec import Attn
from octavo.models.spec import Latent as Declared
from octavo.program.ops import Act, Attend, Latent, LatentQuery, Norming, Op, PerHead, Rope


def latent_ops(
    named: Named, attn: Attn, latent: Declared, at: str, seat: Seat, rope: Rope | None, read: Act
) -> Iterator[Op]:
    """From h[0], in the form `read`, to h[1] as "o" reads it. `at`: what our names of the layer begin with."""
    query = at + ("q_b" if latent.narrow else "q")
    asked = named.act(query)
    yield Latent(
        named.matrix(at + "kv_a"),
        named.bias(at + "kv_a"),
        named.norm(at + "kv_a_norm", latent.norm),
        rope,
        latent.rank,
        seat.layer,
        read,
        narrow=named.matrix(at + "q_a") if latent.narrow else None,
        narrow_bias=named.bias(at + "q_a"),
        narrow_norm=named.norm(at + "q_a_norm", latent.norm) if latent.narrow else Norming("none"),
        act_out=asked,
        group=seat.group,
    )
    lifted = named.act(at + "k_b")
    source = 1 if latent.narrow else 0
    yield LatentQuery(named.matrix(query), named.matrix(at + "k_b"), rope, latent.rank, asked, lifted, source)
    values = named.act(at + "v_b")
    yield Attend(
        seat.layer,
        attn.scale or float((latent.plain + attn.turned) ** -0.5),
        values,
        window=attn.window,
        causal=attn.causal,
        head_dim=latent.rank,
        group=seat.group,
        apart=True,
    )
    yield PerHead(named.matrix(at + "v_b"), values, named.act(at + "o"))
