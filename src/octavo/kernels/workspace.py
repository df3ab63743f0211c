"""Working memory of an executor, before there is a plan. Knows sizes, no weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octavo.kernels.interface import KINDS, NORMS, CExpert, Config, COp, CWeight
from octavo.kernels.native import library


@dataclass(frozen=True)
class MixtureSize:
    """Experts, how many of them a token goes to, and outputs of the widest one."""

    experts: int
    top: int
    inner: int


@dataclass(frozen=True)
class LatentSize:
    """Of latent attention: dims of a key's first part and of a head's first part and value, and of a narrow query."""

    rank: int
    plain: int
    value: int
    narrow: int


def workspace_bytes(
    config: Config,
    inner: int,
    *,
    sights: Sequence[tuple[int, bool]] = ((0, True),),
    post_norms: bool = False,
    whole_key_norms: bool = False,
    mixture: MixtureSize | None = None,
    latent: LatentSize | None = None,
    convolutions: bool = False,
) -> int:
    """Working memory of an executor before there is a plan.

    inner: outputs of the widest feed-forward. sights: each pair of window and causal that attention comes with.
    post_norms: some projection is normed before it is added. whole_key_norms: keys are normed over all heads together.
    mixture: the largest mixture of experts. latent: of attention whose heads share a key. convolutions: whether there
    are any.
    """
    ops = [COp(kind=KINDS["attend"], window=window, all_keys=not causal) for window, causal in dict.fromkeys(sights)]
    ops += [COp(kind=KINDS["ffn_in"]), COp(kind=KINDS["proj"]), COp(kind=KINDS["qkv"])]
    ops[-3].weight[0] = CWeight(rows=inner)
    ops[-2].norm.kind = NORMS["rms"] if post_norms else NORMS["none"]
    ops[-1].head_norm[1].whole = whole_key_norms
    if mixture is not None:
        expert = (CExpert * 1)()
        expert[0].weight[0] = CWeight(rows=mixture.inner)
        ops += [COp(kind=KINDS["route"], experts=mixture.experts), COp(kind=KINDS["moe_in"], expert=expert)]
        ops[-2].routing.top = mixture.top
    if latent is not None:
        ops += [COp(kind=KINDS[kind]) for kind in ("latent", "latent_query", "per_head")]
        ops[-3].weight[0], ops[-3].weight[1] = CWeight(rows=config.head_dim), CWeight(rows=latent.narrow)
        ops[-2].weight[1], ops[-2].head_dim = CWeight(cols=latent.plain), latent.rank
        ops[-1].weight[0] = CWeight(rows=config.heads * latent.value)
    if convolutions:
        ops.append(COp(kind=KINDS["conv"]))
    return int(library().octavo_workspace(config, (COp * len(ops))(*ops), len(ops)))
