"""A model's weights by name, on their way to ops: each checked against what is declared. Knows no op but its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from octavo.core.errors import ModelError
from octavo.kernels.weight import Weight, read_as
from octavo.models import spec as declared
from octavo.models.parts import Part
from octavo.program.ops import Act, Floats, Norming

LISTED = 4  # most names an error shows

Weights = Mapping[str, Weight | npt.NDArray[np.float32]]


class Named:
    """The weights by name, each checked against the shape that the model declares."""

    def __init__(self, weights: Weights, exact: bool, declared: Mapping[str, Part]) -> None:
        self.declared = declared
        self._weights = weights
        self._exact = exact

    def check(self, name: str) -> None:
        """Raise ModelError where a weight is not what is declared."""
        if self.declared[name].is_vector:
            self.numbers(name)
        else:
            self.matrix(name)

    def matrix(self, name: str) -> Weight:
        """A matrix. Raises ModelError where it is not what is declared."""
        weight, shape = self._weights.get(name), self.declared[name].shape
        if not isinstance(weight, Weight) or (weight.rows, weight.cols) != shape:
            raise ModelError(f"{name}: {_shown(weight)} where a matrix of {shape[0]} x {shape[1]} is declared")
        return weight

    def numbers(self, name: str) -> Floats:
        """Float32 numbers. Raises ModelError where they are not what is declared."""
        vector, shape = self._weights.get(name), self.declared[name].shape
        if not isinstance(vector, np.ndarray) or vector.shape != shape or vector.dtype != np.float32:
            wanted = f"vector of {shape[0]}" if len(shape) == 1 else f"array of {list(shape)}"
            raise ModelError(f"{name}: {_shown(vector)} where a float32 {wanted} is declared")
        return vector

    def bias(self, name: str) -> Floats | None:
        """The bias of a part, where one is declared."""
        return self.numbers(name + "_bias") if name + "_bias" in self.declared else None

    def norm(self, name: str, norm: declared.Norm) -> Norming:
        """A norm with its weights."""
        weight = self.numbers(name) if name in self.declared else None
        return Norming(norm.kind, weight, self.bias(name), norm.eps)

    def act(self, *names: str) -> Act:
        """The form in which all these matrices read one input: int8 in groups as the weights' scales want them."""
        matrices = [weight for name in names if isinstance(weight := self._weights[name], Weight)]
        orders = {weight.order for weight in matrices}
        if len(orders) > 1:
            raise ModelError(f"{_listed(names)}: stored with their inputs in {len(orders)} orders, which must be one")
        order = orders.pop()
        if self._exact:
            return Act(32, order=order)
        forms = {read_as(weight.layout, weight.group) for weight in matrices}
        if len({bits for bits, _ in forms}) > 1:
            stored = _listed([weight.layout.name for weight in matrices])
            raise ModelError(f"{_listed(names)}: stored as {stored}, which do not read one form of input")
        if len(forms) > 1:
            shown = ", ".join(str(group) for _, group in sorted(forms))
            raise ModelError(f"{_listed(names)}: stored in groups of {shown}, which do not read one form of input")
        return Act(*forms.pop(), order)


def _listed(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _shown(weight: Weight | npt.NDArray[np.float32] | None) -> str:
    """What was found, for an error."""
    if weight is None:
        return "nothing"
    if isinstance(weight, Weight):
        return f"a matrix of {weight.rows} x {weight.cols}"
    return f"{weight.dtype} {list(weight.shape)}"
