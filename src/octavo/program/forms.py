"""What operations have beside matrices: forms of inputs, norms, rotations. They are taken from ops.py."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

NORMS = ("rms", "layer", "none")


@dataclass(frozen=True, slots=True)
class Act:
    """The form in which a projection reads its input.

    bits 32: float32. 16: rounded to bfloat16. 8: int8 codes in groups of `group` inputs, symmetric: s = amax / 127,
    code = round_half_even(value * (127 / amax)) clamped to +-127, value ~ s * code; a group of zeros has s = 0.
    13: int16 codes likewise, with 4095 in place of 127.
    order: int32 for each input, which of the values it is: they are put in order before all else; none: as they are.
    """

    bits: int
    group: int = 0
    order: bytes = field(default=b"", repr=False)


FLOAT32 = Act(32)


@dataclass(frozen=True, slots=True, eq=False)
class Norming:
    """A norm over the last axis of z, computed in float32. kind:

        "rms"     z / sqrt(mean(z^2) + eps) * weight
        "layer"   (z - mean(z)) / sqrt(mean((z - mean(z))^2) + eps) * weight + bias
        "none"    z

    weight, bias  # [width], as long as z; weight None: 1, bias None: 0. What a file adds to its weights (Gemma's 1) is
    added at load.
    """

    kind: str
    weight: Floats | None = None
    bias: Floats | None = None
    eps: float = 1e-5


NO_NORM = Norming("none")


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """Rotation tables. cos, sin  # [positions, D' / 2]; places i and i + D' / 2 turn together:

        (a, b) -> (a cos - b sin, b cos + a sin)

    Pairs that do not turn (partial rotation, padding) have cos 1 and sin 0. A scaling of attention (YaRN, longrope) is
    in both tables.
    """

    cos: Floats
    sin: Floats


@dataclass(frozen=True, slots=True, eq=False)
class HeadNorm:
    """A norm of queries or keys. `whole` False: each head apart; True: all heads of a token as one vector.

    norm.weight  # [D'], or [heads, D'] for weights of each head's own, or for `whole` [heads * D']; norm.bias alike.
    Both are 0 where no dim is. Means are over true dims only: they divide by D, or for `whole` by heads * D, and places
    without a dim do not count. The weight is never None.
    """

    norm: Norming
    whole: bool = False
