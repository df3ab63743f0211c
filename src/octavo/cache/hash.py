"""Names of pages: a SHA-256 chain, so that equal names mean equal tokens from the first position on.

Owns the form of the chain: digest(page) = SHA-256(digest of the page before, 32 token ids as little-endian int32), and
what precedes the first page covers adapter and salt. A begun page is named by the digest of the page before and the
tokens in it. Invariant: a page's name depends on every token up to its end and on nothing behind it, so a chain can be
grown as tokens come. Knows no blocks and no requests.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from octavo.core.layout import PAGE

_PAGE_TOKENS = struct.Struct(f"<{PAGE}i")


def root_hash(adapter: int, salt: str) -> bytes:
    """What the first page of a sequence is chained to. [32 bytes] Different adapters or salts never share a page."""
    return hashlib.sha256(struct.pack("<q", adapter) + salt.encode("utf-8", "surrogatepass")).digest()


def block_hashes(tokens: Sequence[int], parent: bytes, first: int = 0) -> list[bytes]:
    """Digests of the full pages of `tokens` from page `first` on. [len(tokens) // 32 - first]

    `parent` is the digest of page first - 1, or `root_hash` for first 0. Token ids are 0 to 2**31 - 1.
    """
    sha256, pack = hashlib.sha256, _PAGE_TOKENS.pack
    hashes = []
    for start in range(first * PAGE, len(tokens) - PAGE + 1, PAGE):
        parent = sha256(parent + pack(*tokens[start : start + PAGE])).digest()
        hashes.append(parent)
    return hashes


def begun_names(tokens: Sequence[int], parent: bytes) -> list[bytes]:
    """Names of a begun page by its first token, its first two, and so on. [len(tokens)]

    `parent` is the digest of the page before, or `root_hash`. No such name is a digest: it is longer.
    """
    packed = struct.pack(f"<{len(tokens)}i", *tokens)
    return [parent + packed[:end] for end in range(4, len(packed) + 1, 4)]
