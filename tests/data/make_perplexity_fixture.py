"""The text that perplexity is measured on, as tokens: CPython 3.11's help topics, the first 200,000 characters.

usage: python3.11 make_perplexity_fixture.py TOKENIZER.json OUT.npy

Writes 40 chunks of 512 token ids. Each chunk is read on its own, and the second half of it counts. transformers in
float32 reaches 11.544 on them with the weights of SmolLM2-135M-Instruct's Q4_1 file.
"""

from __future__ import annotations

import pydoc_data.topics as help_pages
import sys

import numpy as np
from tokenizers import Tokenizer

CHUNKS, CHUNK, CHARACTERS = 40, 512, 200_000


def ids_of(tokenizer: Tokenizer) -> np.ndarray:
    """The token ids. uint16 [CHUNKS, CHUNK]"""
    text = "\n\n".join(help_pages.topics[name] for name in sorted(help_pages.topics))[:CHARACTERS]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return np.array(ids[: CHUNKS * CHUNK], np.uint16).reshape(CHUNKS, CHUNK)


if __name__ == "__main__":
    np.save(sys.argv[2], ids_of(Tokenizer.from_file(sys.argv[1])))
