"""How keys and values lie in pages: sizes only, no memory.

Layers fall into cache groups: `layers` of them, which all see the same window of positions or all positions. A page
holds PAGE tokens of every head in one group, so pages are all alike and come from one pool. A sequence has a block
table for each group. Most models are one group. The kernels read a page-head as two packed panels, K then V; both take
`PAGE * head_dim` elements, so the bytes are the same whatever the packing. What a convolution reads of earlier tokens
lies there in the place of keys and values: rows of numbers, token by token, in as many places as they need.
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE = 32  # tokens in a page

KV_BYTES = {"bfloat16": 2, "float32": 4}  # bytes of one stored element


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Shape of one model's cache. `dtype` is "bfloat16" or "float32".

    layers: those of a group, the places of layers in a page. windows: of each group how many positions up to its own a
    token sees, 0: all.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str = "bfloat16"
    windows: tuple[int, ...] = (0,)

    @property
    def groups(self) -> int:
        """How many groups there are, and block tables of a sequence."""
        return len(self.windows)

    @property
    def numbers(self) -> int:
        """How many numbers of one token a place holds: those of its keys and values."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in a page: keys and values of a group's layers."""
        return self.layers * self.numbers * KV_BYTES[self.dtype]

    @property
    def page_bytes(self) -> int:
        """Bytes that one page takes."""
        return PAGE * self.token_bytes

    def seats(self, width: int) -> int:
        """How many places `width` numbers of a token take."""
        return -(-width // self.numbers)

    def pages(self, budget_bytes: int) -> int:
        """How many whole pages fit into a budget."""
        return budget_bytes // self.page_bytes


def pages_for(tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-tokens // PAGE)
