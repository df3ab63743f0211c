"""From the vectors of a request's tokens to what it is given: an embedding, or scores of a classifier's labels.

Invariant: the same bits however the tokens came in steps, and whatever ran beside them: sums are of float64, token by
token in their order, and no library of matrices is asked, whose order of additions may depend on threads. Knows one
request at a time, and neither steps nor slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from octavo.core.request import PoolingParams
from octavo.program.equations import activated, normed
from octavo.program.ops import Norming

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """norm(f(W x + b)). weight  # [outputs, inputs]; bias  # [outputs] or None; see models/spec.py, Dense."""

    weight: Doubles
    bias: Floats | None
    activation: str = "none"
    norm: Norming | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pooling:
    """How a model pools: models/spec.py, Pooler, with its weights."""

    kind: str
    layers: tuple[Layer, ...] = ()
    labels: tuple[str, ...] = ()
    activation: str = "none"
    normalize: bool = False

    def kind_of(self, params: PoolingParams) -> str:
        """Which tokens' vectors a request needs: "cls", "last", "mean", or "all", each by itself."""
        return "all" if params.of_tokens else self.kind

    def finished(self, vectors: Doubles, params: PoolingParams) -> Floats:
        """What the request is given of each vector. vectors  # [rows, width] -> [rows, outputs]"""
        for layer in self.layers:
            vectors = _through(layer, vectors)
        activate = params.activate
        if self.labels:
            return np.asarray(vectors if activate is False else scored(vectors, self.activation), np.float32)
        vectors = vectors[:, : params.dimensions]
        if self.normalize if activate is None else activate:
            vectors = vectors / np.maximum(np.sqrt((vectors * vectors).sum(axis=1, keepdims=True)), 1e-12)
        return np.asarray(vectors, np.float32)


def added(total: Doubles, vectors: Floats) -> Doubles:
    """The sum of all vectors so far and these, one after the other. total  # [width]; vectors  # [rows, width]"""
    total = total.copy()
    for row in vectors:
        total += row
    return total


def scored(values: Doubles, activation: str) -> Doubles:
    """Scores of labels, which are in the last axis."""
    if activation == "softmax":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float64)
    return _activated(values, activation)


def _through(layer: Layer, vectors: Doubles) -> Doubles:
    """One layer over each vector, by itself."""
    out = np.array([np.einsum("i,oi->o", vector, layer.weight) for vector in vectors])
    out = _activated(out if layer.bias is None else out + layer.bias, layer.activation)
    return out if layer.norm is None else normed(out.astype(np.float32), layer.norm).astype(np.float64)


def _activated(values: Doubles, activation: str) -> Doubles:
    match activation:
        case "none":
            return values
        case "tanh":
            return np.tanh(values)
        case "sigmoid":
            return np.asarray(1 / (1 + np.exp(-values)), np.float64)
        case _:
            return activated(values.astype(np.float32), activation).astype(np.float64)
