"""How keys and values lie in pages: sizes only, no memory.

A page holds PAGE tokens of every layer and head. The kernels read a page-head as two packed panels, K then V; both
take `PAGE * head_dim` elements, so the bytes are the same whatever the packing.
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE = 32  # tokens in a page

KV_BYTES = {"bfloat16": 2, "float32": 4}  # bytes of one stored element


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Shape of one model's cache. `dtype` is "bfloat16" or "float32"."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str = "bfloat16"

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in all layers, keys and values together."""
        return self.layers * self.kv_heads * self.head_dim * 2 * KV_BYTES[self.dtype]

    @property
    def page_bytes(self) -> int:
        """Bytes that one page takes in all layers."""
        return PAGE * self.token_bytes

    def pages(self, budget_bytes: int) -> int:
        """How many whole pages fit into a budget."""
        return budget_bytes // self.page_bytes


def pages_for(tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-tokens // PAGE)
