"""What a model is to be quantized to, as plain data, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.core.errors import InvalidValue
from octavo.quant.search import SPANS, Grid, span_of

BITS = {"int4": 4, "int8": 8}
GROUPS = {"int4": 64, "int8": 128}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Codes and how they are found.

    scheme: "int4" or "int8". group: most inputs that share a scale, 0: 64 for int4, 128 for int8. symmetric: codes
    without zero points. gptq, awq: what calibration text, where there is some, is used for. damping: see
    quant/compensate.py.
    """

    scheme: str = "int4"
    group: int = 0
    symmetric: bool = True
    gptq: bool = True
    awq: bool = True
    damping: float = 0.01

    def __post_init__(self) -> None:
        if self.scheme not in BITS:
            raise InvalidValue("scheme", self.scheme, " or ".join(BITS))
        if self.group not in (0, *SPANS):
            raise InvalidValue("group", self.group, "one of " + ", ".join(map(str, sorted(SPANS))))
        if not self.symmetric and self.scheme != "int4":
            raise InvalidValue("symmetric", self.symmetric, "zero points are for int4; int8 gains nothing by them")
        if not 0 < self.damping <= 1:
            raise InvalidValue("damping", self.damping, "above 0, at most 1")

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return BITS[self.scheme]

    def grid(self, cols: int, *, coarse: bool) -> Grid | None:
        """The codes of a matrix of so many inputs; None where no group divides them."""
        span = span_of(cols, self.group or GROUPS[self.scheme])
        return Grid(self.bits, span, self.symmetric, coarse, search=self.bits == 4) if span else None
