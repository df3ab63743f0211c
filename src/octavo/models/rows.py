"""Which stored row becomes which row of ours: fused tensors cut apart, rotating pairs put together, heads padded.

A map is an array of stored rows, one for each row of ours; -1: a row of zeros. None: all rows as they are. Formats keep
each row's bytes together, so that a map serves quantized tensors as well. Knows sizes, no tensor and no name.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.models.rope import turning
from octavo.models.spec import Attn, Latent, places

Rows = npt.NDArray[np.int64]


def placed(head_dim: int, dims: int) -> Rows:
    """The dim that stands in each place of a head of which `dims` turn; -1: none. [places]

    The first half of the places holds the first halves of the turning pairs, then dims that do not turn; the second
    half likewise, so that places i and i + places / 2 are a pair. dims 0: in order.
    """
    out = np.full(places(head_dim), -1, np.int64)
    if dims == 0 or dims == len(out):
        out[:head_dim] = np.arange(head_dim)
        return out
    half, pairs, still = len(out) // 2, dims // 2, np.arange(dims, head_dim)
    first = min(half - pairs, len(still))
    out[:pairs], out[half : half + pairs] = np.arange(pairs), np.arange(pairs, dims)
    out[pairs : pairs + first] = still[:first]
    out[half + pairs : half + pairs + len(still) - first] = still[first:]
    return out


def neighbours(head_dim: int, dims: int) -> Rows:
    """Where a file has the dims of a head whose turning pairs are neighbours. [head_dim]"""
    return np.concatenate([np.arange(0, dims, 2), np.arange(1, dims, 2), np.arange(dims, head_dim)])


def projection_rows(part: str, attn: Attn, fused: str, interleaved: bool) -> Rows:
    """The map of "q", "k" or "v".

    fused: "" its own tensor; "stacked": all of q, then k, then v; "grouped": for each key head its queries, k and v.
    interleaved: turning pairs are stored as neighbours.
    """
    dim, heads = attn.head_dim, attn.heads if part == "q" else attn.kv_heads
    dims = 0 if part == "v" or attn.rope is None else turning(attn.rope, dim)
    first = np.arange(heads) * dim
    if fused == "stacked":
        first = first + {"q": 0, "k": attn.heads, "v": attn.heads + attn.kv_heads}[part] * dim
    elif fused == "grouped":
        per = attn.heads // attn.kv_heads
        number = np.arange(heads)
        inside = number % per if part == "q" else per + (part == "v")
        group = number // per if part == "q" else number
        first = (group * (per + 2) + inside) * dim
    return _moved(_within(dim, dims, interleaved), first)


def projection_stored(part: str, attn: Attn, fused: str) -> int:
    """How many rows are stored where "q", "k" or "v" lies."""
    heads = attn.heads + 2 * attn.kv_heads if fused else attn.heads if part == "q" else attn.kv_heads
    return heads * attn.head_dim


def latent_rows(part: str, attn: Attn, latent: Latent, fused: str, interleaved: bool) -> Rows | None:
    """The map of a matrix of latent attention; of "k_b" as it is stored. fused: "k_b" and "v_b" in one tensor, head by
    head."""
    turned = _within(attn.turned, 0 if attn.rope is None else attn.turned, interleaved)
    if part in ("q", "q_b", "kv_a"):
        plain, heads = (latent.rank, 1) if part == "kv_a" else (latent.plain, attn.heads)
        within = np.concatenate([np.arange(plain), np.where(turned < 0, -1, plain + turned)])
        return _moved(within, np.arange(heads) * (plain + attn.turned))
    if not fused or part not in ("k_b", "v_b"):
        return None
    first = np.arange(attn.heads) * (latent.plain + latent.value)
    if part == "v_b":
        return _moved(np.arange(latent.value), first + latent.plain)
    return _moved(np.arange(latent.plain), first)


def latent_stored(part: str, attn: Attn, latent: Latent, fused: str) -> int:
    """How many rows are stored where a matrix of latent attention lies."""
    if part == "kv_a":
        return latent.rank + attn.turned
    if part in ("q", "q_b"):
        return attn.heads * (latent.plain + attn.turned)
    if fused:
        return attn.heads * (latent.plain + latent.value)
    return attn.heads * (latent.rank if part == "k_b" else latent.value)


def head_norm_rows(part: str, attn: Attn, interleaved: bool) -> Rows:
    """The map of the elements of "q_norm" or "k_norm"."""
    dims = 0 if attn.rope is None else turning(attn.rope, attn.head_dim)
    within = _within(attn.head_dim, dims, interleaved)
    return _moved(within, np.arange(head_norm_stored(part, attn) // attn.head_dim) * attn.head_dim)


def head_norm_stored(part: str, attn: Attn) -> int:
    """How many elements "q_norm" or "k_norm" has."""
    assert attn.head_norm is not None
    if attn.head_norm.shares == "all":
        return attn.head_dim
    return attn.head_dim * (attn.heads if part == "q_norm" else attn.kv_heads)


def flat(rows: Rows, stored: int) -> Rows | None:
    """A map without its needless case: all stored rows, in order."""
    rows = rows.reshape(-1)
    return None if len(rows) == stored and (rows == np.arange(stored)).all() else rows


def _within(head_dim: int, dims: int, interleaved: bool) -> Rows:
    """The stored dim of each place of one head; -1: none. [places]"""
    at = placed(head_dim, dims)
    return np.where(at < 0, -1, neighbours(head_dim, dims)[at]) if interleaved else at


def _moved(within: Rows, first: Rows) -> Rows:
    """One head's map for each of the heads that begin at `first`. [heads, places]"""
    return np.where(within < 0, -1, first[:, None] + within)
