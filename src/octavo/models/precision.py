"""Which matrices of a model keep how many bits when it is quantized at load. Knows no format and no file."""

from __future__ import annotations

from octavo.core.errors import InvalidValue

SCHEMES = ("none", "int16", "int8", "int4")
FINER = 128  # most inputs in a group of 8 or 16 bits


def checked(quantization: str) -> str:
    """The scheme itself. Raises InvalidValue for one that there is not."""
    if quantization not in SCHEMES:
        raise InvalidValue("quantization", quantization, " or ".join(SCHEMES))
    return quantization


def kept(quantization: str, key: str, layers: int) -> tuple[int, int]:
    """Bits of a matrix, by our name, and the most inputs that share a scale.

    Embedding and head keep 8 bits: a wrong step there is a wrong word. All matrices of a layer share one size of group,
    since some of them read one input.
    """
    if quantization == "int16":
        return 16, FINER
    if quantization == "int8" or not key.startswith("layers."):
        return 8, FINER
    return 4, FINER // 2
